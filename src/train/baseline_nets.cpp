#include "train/baseline_nets.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <torch/version.h>

#include <algorithm>
#include <filesystem>

#include "tensor/safetensors.h"
#include "train/ops.h"
#include "train/stream_net.h"

namespace cortex::train {
namespace {

constexpr const char* kConfigKey = "cortex.baseline";
const std::vector<std::string> kNames = {"gru", "transformer", "possm"};

void gru_specs(const ModelConfig& c, std::int64_t inputs, std::vector<TensorSpec>& specs) {
  for (int i = 0; i < c.layers; ++i) {
    const std::string layer = fmt::format("gru.{}.", i);
    specs.insert(specs.end(), {{layer + "ih", {3 * c.dim, i == 0 ? inputs : c.dim}},
                               {layer + "hh", {3 * c.dim, c.dim}},
                               {layer + "ih.bias", {3 * c.dim}},
                               {layer + "hh.bias", {3 * c.dim}}});
  }
}

#if TORCH_VERSION_MAJOR >= 2
/// cuDNN would like its own order of weights, and says so at every call.
class IgnoredWarnings final : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};
#endif

/// A recurrent network over one row of inputs a step.
class RecurrentNet : public Network {
 public:
  RecurrentNet(const ModelConfig& config, const Parameters& params)
      : config_(config), params_(params) {}

  torch::Tensor forward(const CropBatch& batch) const override {
    const ModelConfig& c = config_;
    const torch::Tensor in = inputs(batch).view({batch.crops, batch.steps, -1});
    std::vector<torch::Tensor> weights;
    for (int i = 0; i < c.layers; ++i)
      for (const char* part : {"ih", "hh", "ih.bias", "hh.bias"})
        weights.push_back(params_.at(fmt::format("gru.{}.{}", i, part)));
    const torch::Tensor before = torch::zeros({c.layers, batch.crops, c.dim}, in.options());
    // Without dropout both modes compute the same, but cuDNN keeps what a gradient needs in one.
    const bool train = torch::GradMode::is_enabled();
#if TORCH_VERSION_MAJOR >= 2
    IgnoredWarnings ignored;
    const c10::WarningUtils::WarningHandlerGuard guard(&ignored);
#endif
    const torch::Tensor out =
        std::get<0>(torch::gru(in, before, weights, true, c.layers, 0.0, train, false, true));
    return torch::linear(out, params_.at("head.weight"), params_.at("head.bias"));
  }
  std::int64_t context_steps() const override { return 0; }
  std::int64_t warmup_steps() const override { return config_.window_steps; }
  bool recurrent() const override { return true; }

 protected:
  /// [crops * steps, inputs]
  virtual torch::Tensor inputs(const CropBatch& batch) const = 0;

  ModelConfig config_;
  const Parameters& params_;
};

class GruNet final : public RecurrentNet {
 public:
  using RecurrentNet::RecurrentNet;

 private:
  torch::Tensor inputs(const CropBatch& batch) const override {
    return count_matrix(batch, static_cast<std::int64_t>(config_.units.size()),
                        params_.at("head.weight"));
  }
};

class PossmNet final : public RecurrentNet {
 public:
  PossmNet(const ModelConfig& config, const Parameters& params)
      : RecurrentNet(config, params), events_(config, params, {.counts = false}) {}

 private:
  torch::Tensor inputs(const CropBatch& batch) const override {
    return rms_norm(events_.embed(batch), params_.at("final_norm"))
        .view({batch.rows(), config_.latents * config_.dim});
  }

  StreamNet events_;
};

}  // namespace

const std::vector<std::string>& baseline_names() { return kNames; }

bool is_baseline(const std::string& preset) {
  return std::find(kNames.begin(), kNames.end(), preset) != kNames.end();
}

Result<ModelConfig> find_preset(const std::string& name) {
  if (!is_baseline(name)) {
    auto found = preset_config(name);
    if (found) return found;
    Error e = found.error();
    e.message += fmt::format(", {}", fmt::join(kNames, ", "));
    return e;
  }
  ModelConfig c = *preset_config("stream-nano");
  c.preset = name;
  if (name == "gru") {
    c.dim = 256;
    c.heads = 8;
    c.layers = 2;
  }
  if (name == "possm") {
    c.layers = 1;
    c.receptive_steps = 1;
  }
  return c;
}

std::vector<TensorSpec> parameter_specs(const ModelConfig& config) {
  const std::string& name = config.preset;
  std::vector<TensorSpec> specs = tensor_specs(config);
  if (!is_baseline(name)) return specs;
  const bool recurrent = name != "transformer";
  std::erase_if(specs, [&](const TensorSpec& spec) {
    const auto starts = [&](const char* with) { return spec.name.rfind(with, 0) == 0; };
    if (starts("blocks.")) return recurrent;
    if (starts("head.") || starts("output.")) return recurrent && starts("head.");
    if (name == "gru") return true;
    if (name == "transformer")
      return starts("cross.") || starts("tokenizer.unit") || starts("tokenizer.value");
    return starts("tokenizer.additive");
  });
  if (!recurrent) return specs;
  const auto units = static_cast<std::int64_t>(config.units.size());
  gru_specs(config, name == "gru" ? units : config.latents * config.dim, specs);
  specs.insert(specs.end(), {{"head.weight", {config.outputs(), config.dim}},
                             {"head.bias", {config.outputs()}}});
  return specs;
}

std::unique_ptr<Network> make_baseline(const ModelConfig& config, const Parameters& params) {
  if (config.preset == "gru") return std::make_unique<GruNet>(config, params);
  if (config.preset == "possm") return std::make_unique<PossmNet>(config, params);
  if (config.preset == "transformer")
    return std::make_unique<StreamNet>(config, params, StreamInputs{.events = false});
  return nullptr;
}

Result<void> save_baseline(const std::string& path, const ModelConfig& config,
                           const std::map<std::string, Tensor>& tensors) {
  SafetensorsFile file;
  file.metadata[kConfigKey] = to_json(config);
  for (const auto& [name, tensor] : tensors) file.tensors.emplace(name, tensor.clone());
  return write_safetensors(path, file);
}

bool is_baseline_file(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  const auto file = read_safetensors(path);
  return file && file->metadata.count(kConfigKey) > 0;
}

Result<ModelFile> load_baseline(const std::string& path) {
  auto file = read_safetensors(path);
  if (!file) return file.error();
  auto config = parse_config(file->metadata.at(kConfigKey), path);
  if (!config) return config.error();
  ModelFile model;
  model.config = *std::move(config);
  model.tensors = std::move(file->tensors);
  return model;
}

}  // namespace cortex::train
