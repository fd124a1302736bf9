#include "inspect_model.h"

#include <cstdio>
#include <map>

#include "core/json_writer.h"
#include "model/weights.h"

namespace cortex {
namespace {

// A person sees this many units; --json lists them all.
constexpr std::size_t kListedUnits = 8;

/// Bytes of tensors as the model is held, by dtype.
std::map<std::string, std::size_t> bytes_by_dtype(const ModelFile& model) {
  std::map<std::string, std::size_t> bytes;
  for (const auto& [name, tensor] : model.tensors)
    bytes[to_string(tensor.dtype())] += tensor.bytes();
  return bytes;
}

std::string as_json(const ModelFile& model, const std::string& path) {
  JsonWriter w;
  w.begin_object().key("file").value(path).key("type").value("model");
  w.key("digest").value(model.digest).key("parameters").value(model.parameter_count());
  w.key("precision").value(precision_name(model.precision())).key("bytes").value(model.bytes());
  w.key("bytes_by_dtype").begin_object();
  for (const auto& [dtype, bytes] : bytes_by_dtype(model)) w.key(dtype).value(bytes);
  w.end_object();
  w.key("config").raw(to_json(model.config)).key("tensors").begin_array();
  for (const auto& [name, tensor] : model.tensors) {
    w.begin_object().key("name").value(name).key("dtype").value(to_string(tensor.dtype()));
    w.key("shape").begin_array();
    for (const std::int64_t d : tensor.shape()) w.value(d);
    w.end_array().end_object();
  }
  w.end_array().end_object();
  return w.text();
}

void print_for_a_person(const ModelFile& model, const std::string& path) {
  const ModelConfig& c = model.config;
  const auto line = [](const char* name, const std::string& value) {
    std::printf("  %-14s %s\n", name, value.c_str());
  };
  const auto number = [](double v) {
    char text[32];
    std::snprintf(text, sizeof text, "%g", v);
    return std::string(text);
  };
  std::printf("%s: %s decoder %s\n", path.c_str(), to_string(c.kind), c.preset.c_str());
  line("digest", model.digest);
  line("parameters", std::to_string(model.parameter_count()));
  std::string memory;
  for (const auto& [dtype, bytes] : bytes_by_dtype(model))
    memory += (memory.empty() ? "" : ", ") + dtype + " " + std::to_string(bytes);
  line("precision", precision_name(model.precision()));
  line("memory", std::to_string(model.bytes()) + " bytes of weights: " + memory);
  if (!c.linear())
    line("width", std::to_string(c.dim) + ", " + std::to_string(c.layers) + " layers, " +
                      std::to_string(c.heads) + " heads of " + std::to_string(c.head_dim) + ", " +
                      to_string(c.norm));
  std::string outputs;
  for (std::size_t i = 0; i < c.output_names.size(); ++i)
    outputs += (i ? ", " : "") + c.output_names[i] +
               (c.output_units[i].empty() ? "" : " (" + c.output_units[i] + ")");
  line("outputs", outputs);
  if (c.kind == ModelKind::window) {
    line("latents", std::to_string(c.latents) + " a window");
    line("window", "up to " + std::to_string(c.max_bins) + " bins of " + number(c.bin_ms) +
                       " ms, " + std::to_string(c.max_neurons) + " neurons");
    line("receptive", c.receptive_ms > 0 ? "+-" + number(c.receptive_ms) + " ms" : "dense");
  } else {
    if (!c.linear()) line("latents", std::to_string(c.latents) + " a step");
    line("step", number(c.step_ms) + " ms of " + std::to_string(c.bins_per_step()) + " bins of " +
                     number(c.bin_ms) + " ms");
    if (!c.linear())
      line("sees", std::to_string(c.window_steps) + " steps (" +
                       number(c.window_steps * c.step_ms) + " ms), events of the last " +
                       std::to_string(c.receptive_steps));
    else if (c.kind == ModelKind::ridge)
      line("sees", std::to_string(c.receptive_steps) + " steps of counts");
    else
      line("sees", std::to_string(c.window_steps) + " steps, a state of " + std::to_string(c.dim));
    line("answer", "for " + number(c.target_offset_ms) + " ms from the end of its step");
    std::string units = std::to_string(c.units.size()) + ":";
    for (std::size_t u = 0; u < c.units.size() && u < kListedUnits; ++u)
      units += " " + c.units[u].id;
    if (c.units.size() > kListedUnits) units += " ... (--json lists them)";
    line("units", units);
  }
  if (!c.training_json.empty()) line("training", c.training_json);
}

}  // namespace

void inspect_model(const std::string& path, bool json) {
  const ModelFile model = load_model(path).value_or_throw();
  if (json) {
    std::printf("%s\n", as_json(model, path).c_str());
  } else {
    print_for_a_person(model, path);
  }
}

}  // namespace cortex
