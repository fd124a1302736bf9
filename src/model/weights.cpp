#include "model/weights.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/file.h"
#include "tensor/safetensors.h"

namespace cortex {
namespace {

constexpr const char* kConfigKey = "cortex.config";
constexpr const char* kScaleSuffix = ".scale";
constexpr bool kLinear = true;

void stream_specs(const ModelConfig& c, std::vector<TensorSpec>& specs) {
  const std::int64_t d = c.dim;
  const auto units = static_cast<std::int64_t>(c.units.size());
  specs.insert(specs.end(), {{"tokenizer.unit_emb", {units, d}},
                             {"tokenizer.value_emb", {c.value_buckets, d}},
                             {"tokenizer.additive", {units, c.latents * d}},
                             {"latents", {c.latents, d}},
                             {"cross.norm_q", {d}},
                             {"cross.norm_kv", {d}},
                             {"cross.q", {d, d}, kLinear},
                             {"cross.kv", {2 * d, d}, kLinear},
                             {"cross.out", {d, d}, kLinear},
                             {"cross.null_k", {d}},
                             {"cross.null_v", {d}}});
  for (int i = 0; i < c.layers; ++i) {
    const std::string block = fmt::format("blocks.{}.", i);
    specs.insert(specs.end(), {{block + "norm_attn", {d}},
                               {block + "qkv", {3 * d, d}, kLinear},
                               {block + "out", {d, d}, kLinear},
                               {block + "norm_mlp", {d}},
                               {block + "up", {c.hidden(), d}, kLinear},
                               {block + "down", {d, c.hidden()}, kLinear}});
  }
  specs.insert(specs.end(), {{"final_norm", {d}},
                             {"head.weight", {c.outputs(), c.latents * d}, kLinear},
                             {"head.bias", {c.outputs()}},
                             {"output.mean", {c.outputs()}},
                             {"output.std", {c.outputs()}}});
}

void linear_specs(const ModelConfig& c, std::vector<TensorSpec>& specs) {
  const auto units = static_cast<std::int64_t>(c.units.size());
  const std::int64_t outputs = c.outputs();
  if (c.kind == ModelKind::ridge)
    specs.insert(specs.end(), {{"ridge.weight", {c.receptive_steps, units, outputs}},
                               {"ridge.bias", {outputs}}});
  else
    specs.insert(specs.end(), {{"kalman.predict", {c.dim, c.dim}},
                               {"kalman.update", {c.dim, c.dim}},
                               {"kalman.gain", {units, c.dim}},
                               {"kalman.offset", {c.dim}},
                               {"kalman.output", {outputs, c.dim}}});
  specs.insert(specs.end(), {{"output.mean", {outputs}}, {"output.std", {outputs}}});
}

// The published implementation's own names, so that its weights load as they are.
void window_specs(const ModelConfig& c, std::vector<TensorSpec>& specs) {
  const std::int64_t d = c.dim;
  const auto norm = [&](const std::string& name) {
    specs.push_back({name + ".weight", {d}});
    if (c.norm == NormKind::layernorm) specs.push_back({name + ".bias", {d}});
  };
  specs.insert(specs.end(), {{"tokenizer.neuron_emb.weight", {c.max_neurons, d}},
                             {"tokenizer.time_emb.weight", {c.max_bins, d}},
                             {"tokenizer.value_emb.weight", {c.value_buckets, d}},
                             {"encoder.latents", {c.latents, d}},
                             {"encoder.cross_attn.q_proj.weight", {d, d}, kLinear},
                             {"encoder.cross_attn.kv_proj.weight", {2 * d, d}, kLinear},
                             {"encoder.cross_attn.out_proj.weight", {d, d}, kLinear}});
  norm("encoder.cross_attn.norm_q");
  norm("encoder.cross_attn.norm_kv");
  for (int i = 0; i < c.layers; ++i) {
    const std::string block = fmt::format("encoder.self_attn_blocks.{}.", i);
    specs.insert(specs.end(), {{block + "qkv_proj.weight", {3 * d, d}, kLinear},
                               {block + "out_proj.weight", {d, d}, kLinear},
                               {block + "mlp.0.weight", {c.hidden(), d}, kLinear},
                               {block + "mlp.2.weight", {d, c.hidden()}, kLinear}});
    norm(block + "norm_attn");
    norm(block + "norm_mlp");
  }
  norm("encoder.final_norm");
  specs.insert(specs.end(), {{"behavior_head.query", {c.outputs(), d}},
                             {"behavior_head.q_proj.weight", {d, d}, kLinear},
                             {"behavior_head.kv_proj.weight", {2 * d, d}, kLinear},
                             {"behavior_head.out_proj.weight", {1, d}, kLinear}});
  norm("behavior_head.norm");
}

Error bad_tensor(const std::string& file, const std::string& tensor, const std::string& what) {
  return {ErrorCode::corrupt_data, fmt::format("{}: tensor '{}' {}", file, tensor, what), tensor};
}

std::optional<Error> check_finite(const std::string& file, const std::string& name,
                                  const Tensor& tensor) {
  const auto values = tensor.f32();
  for (std::size_t i = 0; i < values.size(); ++i)
    if (!std::isfinite(values[i]))
      return bad_tensor(file, name, fmt::format("holds {} at element {}", values[i], i));
  return std::nullopt;
}

/// Checks a tensor and brings it to the dtype that a model holds it in.
std::optional<Error> check_tensor(const std::string& file, const TensorSpec& spec, Tensor& tensor) {
  if (tensor.shape() != spec.shape)
    return bad_tensor(file, spec.name,
                      fmt::format("has shape {}, the config needs {}", to_string(tensor.shape()),
                                  to_string(spec.shape)));
  if (tensor.dtype() == DType::i8) {
    if (spec.linear) return std::nullopt;
    return bad_tensor(file, spec.name, "is I8, which only the weight of a linear may be");
  }
  if (tensor.dtype() == DType::f32) return check_finite(file, spec.name, tensor);
  Tensor wide = to_float(tensor);
  auto fault = check_finite(file, spec.name, wide);
  if (!fault && !spec.linear) tensor = std::move(wide);
  return fault;
}

std::optional<Error> check_scale(const std::string& file, const std::string& name,
                                 const Tensor& scale, std::int64_t out) {
  if (scale.dtype() != DType::f32)
    return bad_tensor(file, name, fmt::format("is {}, a scale is F32", to_string(scale.dtype())));
  if (scale.shape() != Shape{out})
    return bad_tensor(file, name,
                      fmt::format("has shape {}, its linear needs {}", to_string(scale.shape()),
                                  to_string(Shape{out})));
  if (auto fault = check_finite(file, name, scale)) return fault;
  for (std::size_t i = 0; i < scale.f32().size(); ++i)
    if (scale.f32()[i] <= 0)
      return bad_tensor(file, name,
                        fmt::format("holds {} at element {}, not above 0", scale.f32()[i], i));
  return std::nullopt;
}

// FNV-1a, 64 bits: names a file's contents, guards against nothing.
std::string digest_of(std::span<const std::byte> bytes) {
  std::uint64_t h = 0xcbf29ce484222325ULL;
  for (const std::byte b : bytes) h = (h ^ static_cast<std::uint64_t>(b)) * 0x100000001b3ULL;
  return fmt::format("{:016x}", h);
}

Result<ModelFile> assemble(SafetensorsFile file, ModelConfig config, std::string digest,
                           const std::string& name) {
  ModelFile model;
  model.config = std::move(config);
  model.digest = std::move(digest);
  const auto take = [&](const TensorSpec& spec, bool required) -> std::optional<Error> {
    const auto found = file.tensors.find(spec.name);
    if (found == file.tensors.end()) {
      if (required) return bad_tensor(name, spec.name, "is missing");
      return std::nullopt;
    }
    if (auto e = check_tensor(name, spec, found->second)) return e;
    const bool scaled = found->second.dtype() == DType::i8;
    model.tensors.insert(file.tensors.extract(found));
    const std::string key = scale_name(spec.name);
    const auto scale = file.tensors.find(key);
    if (scale == file.tensors.end()) {
      if (scaled) return bad_tensor(name, key, "is missing: its linear is I8");
      return std::nullopt;
    }
    if (!scaled) return bad_tensor(name, key, "is the scale of a tensor that is not I8");
    if (auto e = check_scale(name, key, scale->second, spec.shape.front())) return e;
    model.tensors.insert(file.tensors.extract(scale));
    return std::nullopt;
  };
  for (const TensorSpec& spec : tensor_specs(model.config))
    if (const auto e = take(spec, true)) return *e;
  for (const TensorSpec& spec : optional_specs(model.config))
    if (const auto e = take(spec, false)) return *e;
  if (!file.tensors.empty())
    return bad_tensor(name, file.tensors.begin()->first, "is not part of this kind of model");
  return model;
}

struct SplitMix {
  std::uint64_t state;
  std::uint64_t next() {
    std::uint64_t z = (state += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  double uniform() { return (static_cast<double>(next() >> 11) + 0.5) * 0x1p-53; }
  float normal() {
    return static_cast<float>(std::sqrt(-2 * std::log(uniform())) * std::cos(2 * M_PI * uniform()));
  }
};

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

}  // namespace

LinearTensor ModelFile::linear(const std::string& name, const std::string& gain) const {
  const auto scale = tensors.find(scale_name(name));
  return {at(name), scale == tensors.end() ? nullptr : &scale->second,
          gain.empty() ? nullptr : &at(gain)};
}

DType ModelFile::precision() const {
  DType narrowest = DType::f32;
  for (const auto& [name, tensor] : tensors)
    if (size_of(tensor.dtype()) < size_of(narrowest)) narrowest = tensor.dtype();
  return narrowest;
}

std::int64_t ModelFile::parameter_count() const {
  std::int64_t n = 0;
  for (const auto& [name, tensor] : tensors)
    if (name.rfind("output.", 0) != 0 && !ends_with(name, kScaleSuffix)) n += tensor.count();
  return n;
}

std::size_t ModelFile::bytes() const {
  std::size_t n = 0;
  for (const auto& [name, tensor] : tensors) n += tensor.bytes();
  return n;
}

ModelFile clone(const ModelFile& file) {
  ModelFile copy;
  copy.config = file.config;
  copy.digest = file.digest;
  copy.is_identity = file.is_identity;
  for (const auto& [name, tensor] : file.tensors) copy.tensors.emplace(name, tensor.clone());
  return copy;
}

const char* precision_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "fp32";
    case DType::bf16:
      return "bf16";
    case DType::i8:
      return "int8";
  }
  return "";
}

std::string scale_name(const std::string& linear) { return linear + kScaleSuffix; }

std::vector<TensorSpec> tensor_specs(const ModelConfig& config) {
  std::vector<TensorSpec> specs;
  if (config.kind == ModelKind::stream) {
    stream_specs(config, specs);
  } else if (config.linear()) {
    linear_specs(config, specs);
  } else {
    window_specs(config, specs);
  }
  return specs;
}

std::vector<TensorSpec> optional_specs(const ModelConfig& c) {
  if (c.kind != ModelKind::window) return {};
  return {{"masked_spike_head.proj.weight", {c.value_buckets, c.dim}, kLinear},
          {"masked_spike_head.proj.bias", {c.value_buckets}},
          {"output.mean", {c.outputs()}},
          {"output.std", {c.outputs()}}};
}

Result<ModelFile> parse_model(std::span<const std::byte> bytes, const std::string& name) {
  auto file = parse_safetensors(bytes, name);
  if (!file) return file.error();
  const auto json = file->metadata.find(kConfigKey);
  if (json == file->metadata.end())
    return Error{
        ErrorCode::corrupt_data,
        fmt::format("{}: no '{}' in its metadata and no config.json beside it", name, kConfigKey),
        kConfigKey};
  auto config = parse_config(json->second, name);
  if (!config) return config.error();
  return assemble(*std::move(file), *std::move(config), digest_of(bytes), name);
}

Result<ModelFile> load_model(const std::string& path) {
  const std::filesystem::path given(path);
  const std::string weights =
      std::filesystem::is_directory(given) ? (given / "model.safetensors").string() : path;
  auto bytes = read_file(weights);
  if (!bytes) return bytes.error();
  auto file = parse_safetensors(*bytes, weights);
  if (!file) return file.error();
  const auto sibling = std::filesystem::path(weights).parent_path() / "config.json";
  if (file->metadata.count(kConfigKey) || !std::filesystem::exists(sibling))
    return parse_model(*bytes, weights);
  const auto json = read_file(sibling.string());
  if (!json) return json.error();
  auto config = parse_published_config(
      std::string(reinterpret_cast<const char*>(json->data()), json->size()), sibling.string());
  if (!config) return config.error();
  return assemble(*std::move(file), *std::move(config), digest_of(*bytes), weights);
}

Result<void> save_model(const std::string& path, const ModelConfig& config,
                        const std::map<std::string, Tensor>& tensors) {
  if (const auto ok = config.validate(); !ok) return ok.error();
  SafetensorsFile file;
  file.metadata["format"] = "pt";
  file.metadata[kConfigKey] = to_json(config);
  for (const auto& [name, tensor] : tensors) file.tensors.emplace(name, tensor.clone());
  return write_safetensors(path, file);
}

ModelFile random_model(ModelConfig config, std::uint64_t seed) {
  config.set_defaults();
  ModelFile model;
  SplitMix random{seed};
  for (const TensorSpec& spec : tensor_specs(config)) {
    Tensor t(spec.shape);
    const bool gain = spec.shape.size() == 1 &&
                      (spec.name.find("norm") != std::string::npos || spec.name == "output.std");
    const bool zero = ends_with(spec.name, ".bias") || spec.name == "output.mean";
    for (float& v : t.f32()) v = zero ? 0.0f : gain ? 1.0f : 0.02f * random.normal();
    model.tensors.emplace(spec.name, std::move(t));
  }
  model.config = std::move(config);
  model.digest = fmt::format("random-{}", seed);
  return model;
}

}  // namespace cortex
