#include "model/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "support/paths.h"
#include "support/stream_oracle.h"
#include "tensor/safetensors.h"

namespace cortex::testing {
namespace {

class Weights : public ::testing::Test {
 protected:
  ModelFile model_ = random_model(tiny_stream_config(), 3);
  TempDir folder_;
  std::string path_ = folder_.file("m.safetensors");

  Error load_fault() {
    SafetensorsFile file;
    file.metadata["cortex.config"] = to_json(model_.config);
    for (auto& [name, tensor] : model_.tensors) file.tensors.emplace(name, tensor.clone());
    EXPECT_TRUE(write_safetensors(path_, file));
    const auto loaded = load_model(path_);
    EXPECT_FALSE(loaded);
    return loaded ? Error{} : loaded.error();
  }
};

TEST_F(Weights, AModelSurvivesItsFile) {
  ASSERT_TRUE(save_model(path_, model_.config, model_.tensors));
  const auto loaded = load_model(path_).value_or_throw();
  EXPECT_EQ(to_json(loaded.config), to_json(model_.config));
  for (const auto& [name, tensor] : model_.tensors) {
    const auto a = tensor.f32();
    const auto b = loaded.at(name).f32();
    EXPECT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << name;
  }
  EXPECT_EQ(loaded.digest.size(), 16U);
}

TEST_F(Weights, AMissingTensorIsNamed) {
  model_.tensors.erase("blocks.1.qkv");
  EXPECT_EQ(load_fault().field, "blocks.1.qkv");
}

TEST_F(Weights, AnExtraTensorIsNamed) {
  model_.tensors.emplace("blocks.9.qkv", Tensor({1}));
  EXPECT_EQ(load_fault().field, "blocks.9.qkv");
}

TEST_F(Weights, AMisshapenTensorIsNamedWithBothShapes) {
  model_.tensors.at("head.weight") = Tensor({2, 31});
  const Error e = load_fault();
  EXPECT_EQ(e.field, "head.weight");
  EXPECT_NE(e.message.find("[2, 31]"), std::string::npos);
  EXPECT_NE(e.message.find("[2, 32]"), std::string::npos);
}

TEST_F(Weights, ANonFiniteWeightIsNamedWithItsPlace) {
  model_.tensors.at("cross.q").f32()[5] = std::numeric_limits<float>::quiet_NaN();
  const Error e = load_fault();
  EXPECT_EQ(e.field, "cross.q");
  EXPECT_NE(e.message.find("element 5"), std::string::npos);
}

TEST_F(Weights, Bf16TensorsWiden) {
  Tensor narrow({2, 32}, DType::bf16);
  const std::uint16_t one = 0x3f80;
  for (int i = 0; i < 64; ++i) std::memcpy(narrow.data() + 2 * i, &one, 2);
  model_.tensors.at("head.weight") = std::move(narrow);
  SafetensorsFile file;
  file.metadata["cortex.config"] = to_json(model_.config);
  for (auto& [name, tensor] : model_.tensors) file.tensors.emplace(name, tensor.clone());
  ASSERT_TRUE(write_safetensors(path_, file));
  EXPECT_EQ(load_model(path_).value_or_throw().at("head.weight").f32()[7], 1.0f);
}

TEST_F(Weights, AFileWithoutAConfigSaysSo) {
  SafetensorsFile file;
  file.tensors.emplace("x", Tensor({1}));
  ASSERT_TRUE(write_safetensors(path_, file));
  const auto loaded = load_model(path_);
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().field, "cortex.config");
}

}  // namespace
}  // namespace cortex::testing
