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

  void write() {
    SafetensorsFile file;
    file.metadata["cortex.config"] = to_json(model_.config);
    for (auto& [name, tensor] : model_.tensors) file.tensors.emplace(name, tensor.clone());
    EXPECT_TRUE(write_safetensors(path_, file));
  }

  void narrow(const std::string& name) { model_.tensors.at(name) = to_bfloat16(model_.at(name)); }

  /// Every weight -7, every scale 1/4.
  void quantize(const std::string& name) {
    Tensor weight(model_.at(name).shape(), DType::i8);
    std::memset(weight.data(), -7, weight.bytes());
    Tensor scale({weight.size(0)});
    for (float& v : scale.f32()) v = 0.25F;
    model_.tensors.at(name) = std::move(weight);
    model_.tensors.emplace(name + ".scale", std::move(scale));
  }

  ModelFile load() {
    write();
    return load_model(path_).value_or_throw();
  }

  Error load_fault() {
    write();
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

TEST_F(Weights, ABf16LinearStaysAndOtherBf16TensorsWiden) {
  narrow("head.weight");
  narrow("tokenizer.unit_emb");
  const auto loaded = load();
  EXPECT_EQ(loaded.at("head.weight").dtype(), DType::bf16);
  EXPECT_EQ(loaded.at("tokenizer.unit_emb").dtype(), DType::f32);
  EXPECT_EQ(loaded.at("tokenizer.unit_emb").f32()[7],
            to_float(model_.at("tokenizer.unit_emb")).f32()[7]);
  EXPECT_EQ(loaded.precision(), DType::bf16);
}

TEST_F(Weights, ANonFiniteBf16WeightIsNamed) {
  model_.tensors.at("blocks.0.up").f32()[3] = std::numeric_limits<float>::infinity();
  narrow("blocks.0.up");
  const Error e = load_fault();
  EXPECT_EQ(e.field, "blocks.0.up");
  EXPECT_NE(e.message.find("element 3"), std::string::npos);
}

TEST_F(Weights, AnI8LinearSurvivesItsFileWithItsScale) {
  const std::int64_t parameters = model_.parameter_count();
  quantize("blocks.1.up");
  const auto loaded = load();
  const LinearTensor linear = loaded.linear("blocks.1.up");
  EXPECT_EQ(linear.weight.dtype(), DType::i8);
  ASSERT_NE(linear.scale, nullptr);
  EXPECT_EQ(linear.scale->f32()[3], 0.25F);
  EXPECT_EQ(static_cast<std::int8_t>(linear.weight.data()[1]), -7);
  EXPECT_EQ(loaded.precision(), DType::i8);
  EXPECT_STREQ(precision_name(loaded.precision()), "int8");
  EXPECT_EQ(loaded.parameter_count(), parameters) << "a scale is no parameter";
}

TEST_F(Weights, AnI8LinearWithoutItsScaleIsNamed) {
  quantize("blocks.1.up");
  model_.tensors.erase("blocks.1.up.scale");
  const Error e = load_fault();
  EXPECT_EQ(e.field, "blocks.1.up.scale");
  EXPECT_NE(e.message.find("missing"), std::string::npos);
}

TEST_F(Weights, AScaleOfTheWrongShapeOrTypeIsNamed) {
  quantize("blocks.1.up");
  model_.tensors.at("blocks.1.up.scale") = Tensor({63});
  const Error shape = load_fault();
  EXPECT_EQ(shape.field, "blocks.1.up.scale");
  EXPECT_NE(shape.message.find("[63]"), std::string::npos) << shape.message;
  EXPECT_NE(shape.message.find("[64]"), std::string::npos) << shape.message;
  model_.tensors.at("blocks.1.up.scale") = Tensor({64}, DType::bf16);
  EXPECT_EQ(load_fault().field, "blocks.1.up.scale");
}

TEST_F(Weights, AScaleThatIsNotFiniteAndPositiveIsNamed) {
  quantize("blocks.1.up");
  for (const float wrong : {0.0F, -1.0F, std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()}) {
    model_.tensors.at("blocks.1.up.scale").f32()[5] = wrong;
    const Error e = load_fault();
    EXPECT_EQ(e.field, "blocks.1.up.scale");
    EXPECT_NE(e.message.find("element 5"), std::string::npos) << e.message;
  }
}

TEST_F(Weights, AnI8TensorThatIsNoLinearIsNamed) {
  for (const std::string name : {"tokenizer.unit_emb", "final_norm", "tokenizer.additive"}) {
    const Tensor kept = model_.at(name).clone();
    quantize(name);
    EXPECT_EQ(load_fault().field, name);
    model_.tensors.at(name) = kept.clone();
    model_.tensors.erase(name + ".scale");
  }
}

TEST_F(Weights, AStrayScaleIsNamed) {
  for (const std::string name : {"blocks.1.up.scale", "final_norm.scale", "nothing.scale"}) {
    model_.tensors.emplace(name, Tensor({64}));
    EXPECT_EQ(load_fault().field, name);
    model_.tensors.erase(name);
  }
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
