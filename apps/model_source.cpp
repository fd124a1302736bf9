#include "model_source.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "quant/quantize_linear.h"

namespace cortex {
namespace {

/// A linear's weight: every matrix that is neither an embedding, nor queries, nor a table.
bool is_linear(const std::string& name, const Tensor& tensor) {
  if (tensor.shape().size() != 2) return false;
  for (const char* table : {"tokenizer.", "latents", "query"})
    if (name.find(table) != std::string::npos) return false;
  return true;
}

/// The plain rounding of float32 linears, good for timing; accuracy is the quantiser's business.
void round_linears(ModelFile& file, const std::string& precision) {
  if (precision == precision_name(file.precision())) return;
  if (file.precision() != DType::f32)
    throw Exception{{ErrorCode::unsupported,
                     fmt::format("--precision {}: the model's linears are {} already", precision,
                                 precision_name(file.precision())),
                     "precision"}};
  std::vector<std::string> names;
  for (const auto& [name, tensor] : file.tensors)
    if (is_linear(name, tensor)) names.push_back(name);
  for (const std::string& name : names) {
    if (precision == "bf16") {
      file.tensors.at(name) = to_bfloat16(file.tensors.at(name));
    } else {
      QuantizedLinear q = quantize_rows(file.tensors.at(name), Clipping::absmax);
      file.tensors.at(name) = std::move(q.weight);
      file.tensors.emplace(name + ".scale", std::move(q.scale));
    }
  }
}

}  // namespace

void add_model_flags(CLI::App& command, ModelSource& source) {
  command.add_option("--model", source.model, "Model file (.safetensors)");
  command.add_option("--preset", source.preset, "Random weights of a preset, e.g. stream-s");
  command
      .add_option("--precision", source.precision,
                  "Round the linears: fp32, bf16 or int8; default "
                  "as the model is")
      ->check(CLI::IsMember({"fp32", "bf16", "int8"}));
  command.add_option("--units", source.units, "Units of a stream preset")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
}

ModelFile load(const ModelSource& source) {
  if (source.model.empty() == source.preset.empty())
    throw CLI::ValidationError("--model", "give one of --model and --preset");
  ModelFile file;
  if (!source.model.empty()) {
    file = load_model(source.model).value_or_throw();
    if (file.config.linear())
      throw Exception{{ErrorCode::unsupported,
                       fmt::format("{} is a {} decoder, which has no layers to measure",
                                   source.model, to_string(file.config.kind)),
                       "model"}};
  } else {
    ModelConfig config = preset_config(source.preset).value_or_throw();
    if (config.kind == ModelKind::stream)
      for (int u = 0; u < source.units; ++u)
        config.units.push_back(
            {.id = fmt::format("u{}", u), .session = {}, .electrode = {}, .rate_hz = 0});
    config.set_defaults();
    file = random_model(std::move(config), 1);
  }
  if (!source.precision.empty()) round_linears(file, source.precision);
  return file;
}

std::string describe(const ModelSource& source, const ModelFile& file) {
  const std::string& preset = file.config.preset;
  return fmt::format("{}{}", preset.empty() ? to_string(file.config.kind) : preset,
                     source.model.empty() ? " (random weights)" : "");
}

std::vector<Event> random_events(std::mt19937_64& random, const ModelConfig& config, int count,
                                 std::int64_t first_bin, int bins) {
  std::uniform_int_distribution<std::int32_t> unit(0, config.unit_count() - 1);
  std::uniform_int_distribution<int> bin(0, bins - 1);
  std::vector<Event> events;
  events.reserve(static_cast<std::size_t>(count));
  for (int i = 0; i < count; ++i)
    events.push_back({.unit = unit(random), .value = 1, .bin = first_bin + bin(random)});
  return events;
}

}  // namespace cortex
