#include "train/spike_head.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/bits_per_spike.h"
#include "tensor/safetensors.h"
#include "train/crops.h"
#include "train/evaluate.h"
#include "train/ops.h"

namespace cortex::train {
namespace {

constexpr const char* kConfigKey = "cortex.pretrained";
// A unit without a spike is not impossible.
constexpr double kLeastRateHz = 0.01;
constexpr double kInitialSpread = 0.02;

std::int64_t cells_of(const ModelConfig& c) {
  return static_cast<std::int64_t>(c.units.size()) * c.bins_per_step();
}

torch::Tensor on(const std::vector<float>& values, const torch::Tensor& like) {
  return torch::tensor(values).view(like.sizes()).to(like.device(), like.scalar_type());
}

}  // namespace

std::vector<TensorSpec> spike_head_specs(const ModelConfig& c) {
  const auto units = static_cast<std::int64_t>(c.units.size());
  return {{"spikes.proj", {c.dim, c.latents * c.dim}},
          {"spikes.unit", {units, c.dim}},
          {"spikes.bin", {c.bins_per_step(), c.dim}},
          {"spikes.bias", {units}}};
}

std::vector<TensorSpec> pretrained_specs(const ModelConfig& config) {
  std::vector<TensorSpec> specs = tensor_specs(config);
  std::erase_if(specs, [](const TensorSpec& spec) {
    return spec.name.rfind("head.", 0) == 0 || spec.name.rfind("output.", 0) == 0;
  });
  const auto head = spike_head_specs(config);
  specs.insert(specs.end(), head.begin(), head.end());
  return specs;
}

std::map<std::string, Tensor> initial_spike_head(const ModelConfig& c, std::uint64_t seed) {
  std::map<std::string, Tensor> out;
  std::uint64_t stream = 0;
  for (const TensorSpec& spec : spike_head_specs(c)) {
    Tensor t(spec.shape);
    CounterRandom random(seed, 0x5b1ce5, ++stream);
    const double spread = spec.name == "spikes.proj"
                              ? 1 / std::sqrt(static_cast<double>(spec.shape.back()))
                              : kInitialSpread;
    // Uniform of that standard deviation.
    for (float& v : t.f32())
      v = static_cast<float>(spread * std::sqrt(12.0) * (random.uniform() - 0.5));
    if (spec.name == "spikes.bias")
      for (std::size_t u = 0; u < c.units.size(); ++u)
        t.f32()[u] = static_cast<float>(
            std::log(std::max(c.units[u].rate_hz, kLeastRateHz) * c.bin_ms / 1000));
    out.emplace(spec.name, std::move(t));
  }
  return out;
}

SpikeNet::SpikeNet(const ModelConfig& config, const Parameters& params)
    : config_(config), params_(params), stream_(config, params) {}

torch::Tensor SpikeNet::forward(const CropBatch& batch) const {
  const ModelConfig& c = config_;
  const torch::Tensor states = stream_.states(batch);
  const std::int64_t skipped = batch.steps - states.size(1);
  const torch::Tensor asked =
      torch::gelu(project(states, params_.at("spikes.proj"))) / std::sqrt(c.dim);
  const torch::Tensor queries =
      (params_.at("spikes.unit").unsqueeze(1) + params_.at("spikes.bin").unsqueeze(0))
          .view({cells_of(c), c.dim});
  const torch::Tensor bias =
      params_.at("spikes.bias").unsqueeze(1).expand({-1, c.bins_per_step()}).reshape({cells_of(c)});
  const torch::Tensor log_rates = project(asked, queries, bias);
  return skipped == 0 ? log_rates : torch::constant_pad_nd(log_rates, {0, 0, skipped, 0});
}

torch::Tensor poisson_loss(const torch::Tensor& log_rates, const CropBatch& batch) {
  const torch::Tensor counts = on(batch.hidden, log_rates);
  const torch::Tensor asked =
      on(std::vector<float>(batch.asked.begin(), batch.asked.end()), log_rates);
  return ((log_rates.exp() - counts * log_rates) * asked).sum();
}

CoSmoothing co_smoothing(const Network& network, const Timeline& timeline,
                         const std::vector<std::uint8_t>& hidden) {
  Timeline heard = timeline;
  for (TimelinePart& part : heard.parts)
    keep_events(part, [&](const Event& e) { return !hidden[static_cast<std::size_t>(e.unit)]; });
  const auto bins = static_cast<std::int64_t>(std::lround(timeline.step_ms / timeline.bin_ms));
  const std::int64_t cells = static_cast<std::int64_t>(hidden.size()) * bins;
  BitsPerSpike bits(hidden.size());
  std::vector<double> counts(static_cast<std::size_t>(cells));
  run_timeline(network, heard, 1024, [&](const ScoredSpan& span, const float* log_rates) {
    const TimelinePart& part = timeline.parts[span.part];
    for (std::int64_t s = span.first; s < span.last; ++s) {
      if (!part.mask[s]) continue;
      std::fill(counts.begin(), counts.end(), 0);
      for (std::int64_t e = part.indptr[s]; e < part.indptr[s + 1]; ++e) {
        const Event& event = part.events[e];
        counts[event.unit * bins + event.bin - s * bins] += event.value;
      }
      const float* row = log_rates + (s - span.first) * cells;
      for (std::int64_t cell = 0; cell < cells; ++cell) {
        const auto unit = static_cast<std::size_t>(cell / bins);
        if (hidden[unit]) bits.add(unit, std::exp(row[cell]), counts[cell]);
      }
    }
  });
  return {bits.score(), bits.spikes(), bits.bins()};
}

Result<void> save_pretrained(const std::string& path, const ModelConfig& config,
                             const std::map<std::string, Tensor>& tensors) {
  SafetensorsFile file;
  file.metadata[kConfigKey] = to_json(config);
  for (const auto& [name, tensor] : tensors) file.tensors.emplace(name, tensor.clone());
  return write_safetensors(path, file);
}

bool is_pretrained_file(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) return false;
  const auto file = read_safetensors(path);
  return file && file->metadata.count(kConfigKey) > 0;
}

Result<ModelFile> load_pretrained(const std::string& path) {
  auto file = read_safetensors(path);
  if (!file) return file.error();
  const auto json = file->metadata.find(kConfigKey);
  if (json == file->metadata.end())
    return Error{ErrorCode::corrupt_data,
                 fmt::format("{}: no '{}' in its metadata", path, kConfigKey), kConfigKey};
  auto config = parse_config(json->second, path);
  if (!config) return config.error();
  ModelFile model;
  model.config = *std::move(config);
  for (const TensorSpec& spec : pretrained_specs(model.config)) {
    const auto found = file->tensors.find(spec.name);
    if (found == file->tensors.end() || found->second.shape() != spec.shape)
      return Error{ErrorCode::corrupt_data,
                   fmt::format("{}: tensor '{}' is missing or misshapen", path, spec.name),
                   spec.name};
    model.tensors.insert(file->tensors.extract(found));
  }
  return model;
}

}  // namespace cortex::train
