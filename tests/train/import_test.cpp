#include "train/import_pt.h"

#include <caffe2/serialize/inline_container.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "model/weights.h"
#include "support/paths.h"

namespace cortex::train {
namespace {

using cortex::testing::TempDir;

constexpr const char* kConfig =
    R"({"mlp_ratio": 4.0, "behavior_dim": 2, "spike_value_buckets": 4, "dtype": "float32",
        "hidden_dim": 16, "num_layers": 1, "num_heads": 2, "head_dim": 8, "num_latents": 3,
        "latent_dim": 16, "cross_attn_heads": 2, "max_neurons": 5, "max_time_bins": 7})";

void put(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string text(const std::string& s) {
  const auto n = static_cast<std::uint32_t>(s.size());
  return "X" + std::string(reinterpret_cast<const char*>(&n), 4) + s;
}

std::string integer(std::int64_t v) {
  const auto n = static_cast<std::int32_t>(v);
  return "J" + std::string(reinterpret_cast<const char*>(&n), 4);
}

/// What Python's pickle writes for one tensor of a state dict.
std::string tensor_pickle(const std::string& key, const Shape& shape) {
  std::string sizes, strides;
  std::int64_t stride = element_count(shape);
  for (const std::int64_t n : shape) {
    sizes += integer(n);
    strides += integer(stride /= n);
  }
  return "ctorch._utils\n_rebuild_tensor_v2\n((" + text("storage") + "ctorch\nFloatStorage\n" +
         text(key) + text("cpu") + integer(element_count(shape)) + "tQ" + integer(0) + "(" + sizes +
         "t(" + strides + "t\x89" + "ccollections\nOrderedDict\n)RtR";
}

/// A checkpoint as torch.save writes it: a dict with the OrderedDict of weights, its `_metadata`
/// set by BUILD, and the epoch beside it.
void write_pt(const std::string& path, const ModelFile& model, const std::string& extra = "") {
  caffe2::serialize::PyTorchStreamWriter zip(path);
  std::string items;
  int key = 0;
  for (const auto& [name, tensor] : model.tensors) {
    const std::string k = std::to_string(key++);
    items += text("module." + name) + tensor_pickle(k, tensor.shape());
    zip.writeRecord("data/" + k, tensor.data(), tensor.bytes());
  }
  const std::string pickle = "\x80\x02}(" + text("epoch") + "K\x03" + text("model_state_dict") +
                             "ccollections\nOrderedDict\n)R(" + items + extra + "u}" +
                             text("_metadata") + "}sbu.";
  zip.writeRecord("data.pkl", pickle.data(), pickle.size());
  zip.writeEndOfFile();
}

ModelFile published() { return random_model(*parse_published_config(kConfig, "config.json"), 8); }

TEST(ImportPt, KeepsEveryWeight) {
  const TempDir dir;
  ModelFile model = published();
  put(dir.file("config.json"), kConfig);
  write_pt(dir.file("best.pt"), model);
  const auto report = import_pt(dir.file("best.pt"), "", dir.file("model.safetensors"));
  ASSERT_TRUE(report) << report.error().message;
  const auto back = load_model(dir.file("model.safetensors"));
  ASSERT_TRUE(back) << back.error().message;
  EXPECT_EQ(back->config.norm, NormKind::layernorm);
  ASSERT_EQ(back->tensors.size(), model.tensors.size());
  for (const auto& [name, tensor] : model.tensors) {
    ASSERT_EQ(back->at(name).shape(), tensor.shape()) << name;
    EXPECT_EQ(std::memcmp(back->at(name).data(), tensor.data(), tensor.bytes()), 0) << name;
  }
}

TEST(ImportPt, BadFilesAreNamed) {
  const TempDir dir;
  const auto refused = [&](const std::string& pt, ErrorCode code, const std::string& names) {
    const auto report = import_pt(dir.file(pt), "", dir.file("model.safetensors"));
    ASSERT_FALSE(report) << pt;
    EXPECT_EQ(report.error().code, code) << report.error().message;
    EXPECT_NE(report.error().message.find(names), std::string::npos) << report.error().message;
    EXPECT_FALSE(std::filesystem::exists(dir.file("model.safetensors")));
  };
  refused("absent.pt", ErrorCode::not_found, "absent.pt");
  put(dir.file("old.pt"), "\x80\x02}q");
  refused("old.pt", ErrorCode::unsupported, "1.6");
  ModelFile model = published();
  write_pt(dir.file("best.pt"), model);
  refused("best.pt", ErrorCode::not_found, "config.json");
  put(dir.file("config.json"), kConfig);
  const std::string whole = [&] {
    std::ifstream in(dir.file("best.pt"), std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
  }();
  put(dir.file("half.pt"), whole.substr(0, whole.size() / 2));
  refused("half.pt", ErrorCode::corrupt_data, "half.pt");
  model.tensors.erase("encoder.latents");
  write_pt(dir.file("missing.pt"), model);
  refused("missing.pt", ErrorCode::corrupt_data, "encoder.latents");
  // A tensor that reaches past its storage, and an opcode that could run code.
  write_pt(dir.file("wide.pt"), published(), text("x") + tensor_pickle("0", {1000, 1000}));
  refused("wide.pt", ErrorCode::corrupt_data, "outside its storage");
  write_pt(dir.file("code.pt"), published(), "i");
  refused("code.pt", ErrorCode::unsupported, "opcode");
}

}  // namespace
}  // namespace cortex::train
