#include "model/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <simdjson.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "core/json_writer.h"

namespace cortex {
namespace {

using simdjson::dom::element;
using simdjson::dom::object;

struct Preset {
  const char* name;
  ModelKind kind;
  int dim, layers, heads, latents;
};

constexpr const char* kKinds[] = {"window", "stream", "ridge", "kalman"};
constexpr int kMostLags = 256;

constexpr Preset kPresets[] = {{"stream-nano", ModelKind::stream, 128, 4, 4, 1},
                               {"stream-deep", ModelKind::stream, 128, 12, 4, 1},
                               {"stream-xs", ModelKind::stream, 256, 5, 4, 4},
                               {"stream-s", ModelKind::stream, 512, 7, 8, 4},
                               {"stream-m", ModelKind::stream, 768, 11, 12, 4},
                               {"cortex-xs", ModelKind::window, 256, 5, 4, 128},
                               {"cortex-s", ModelKind::window, 512, 7, 8, 256},
                               {"cortex-m", ModelKind::window, 768, 11, 12, 384}};

Error bad_field(const char* field, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("config: {} {}", field, what), field};
}

bool finite_positive(double v) { return std::isfinite(v) && v > 0; }

/// Reads fields of one object, remembers the first fault and which keys were used.
class FieldReader {
 public:
  FieldReader(object root, std::string place) : root_(root), place_(std::move(place)) {}

  template <class T>
  void read(const char* key, T& into, bool required = true) {
    used_.insert(key);
    element value;
    if (root_[key].get(value)) {
      if (required) fail(key, "is missing");
      return;
    }
    read_value(key, value, into);
  }

  void fail(const char* key, const std::string& what) {
    if (!error_)
      error_ = Error{ErrorCode::corrupt_data, fmt::format("{}: '{}' {}", place_, key, what), key};
  }

  std::optional<Error> finish(bool refuse_unknown) {
    if (error_) return error_;
    if (refuse_unknown)
      for (const auto [key, value] : root_)
        if (!used_.count(std::string(key)))
          return Error{ErrorCode::corrupt_data, fmt::format("{}: unknown field '{}'", place_, key),
                       std::string(key)};
    return std::nullopt;
  }

 private:
  void read_value(const char* key, element value, int& into) {
    std::int64_t n = 0;
    if (value.get(n) || n < INT32_MIN || n > INT32_MAX) return fail(key, "is not a whole number");
    into = static_cast<int>(n);
  }
  void read_value(const char* key, element value, double& into) {
    if (value.get(into)) fail(key, "is not a number");
  }
  void read_value(const char* key, element value, std::string& into) {
    std::string_view text;
    if (value.get(text)) return fail(key, "is not a string");
    into = std::string(text);
  }
  void read_value(const char* key, element value, std::optional<std::int64_t>& into) {
    std::int64_t n = 0;
    if (value.is_null()) return;
    if (value.get(n)) return fail(key, "is not a whole number");
    into = n;
  }
  void read_value(const char* key, element value, std::vector<std::string>& into) {
    simdjson::dom::array items;
    if (value.get(items)) return fail(key, "is not an array of strings");
    for (const auto item : items) {
      std::string_view text;
      if (item.get(text)) return fail(key, "is not an array of strings");
      into.emplace_back(text);
    }
  }
  void read_value(const char* key, element value, bool& into) {
    if (value.get(into)) fail(key, "is not true or false");
  }
  void read_value(const char*, element value, element& into) { into = value; }

  object root_;
  std::string place_;
  std::set<std::string> used_;
  std::optional<Error> error_;
};

std::optional<Error> read_units(element list, const std::string& file,
                                std::vector<ModelUnit>& units) {
  simdjson::dom::array rows;
  if (list.get(rows))
    return Error{ErrorCode::corrupt_data, fmt::format("{}: 'units' is not an array", file),
                 "units"};
  for (const auto row : rows) {
    object fields;
    const std::string place = fmt::format("{}: units[{}]", file, units.size());
    if (row.get(fields))
      return Error{ErrorCode::corrupt_data, fmt::format("{} is not an object", place), "units"};
    ModelUnit unit;
    FieldReader reader(fields, place);
    reader.read("id", unit.id);
    reader.read("session", unit.session, false);
    reader.read("electrode", unit.electrode, false);
    reader.read("rate_hz", unit.rate_hz, false);
    if (auto e = reader.finish(true)) return e;
    units.push_back(std::move(unit));
  }
  return std::nullopt;
}

Result<object> parse_object(simdjson::dom::parser& parser, const std::string& json,
                            const std::string& file) {
  object root;
  if (const auto e = parser.parse(json).get(root); e)
    return Error{
        ErrorCode::corrupt_data,
        fmt::format("{}: config is not a JSON object: {}", file, simdjson::error_message(e)),
        "cortex.config"};
  return root;
}

}  // namespace

const char* to_string(ModelKind kind) { return kKinds[static_cast<int>(kind)]; }
const char* to_string(NormKind kind) { return kind == NormKind::rmsnorm ? "rmsnorm" : "layernorm"; }

int ModelConfig::bins_per_step() const { return static_cast<int>(std::lround(step_ms / bin_ms)); }

void ModelConfig::set_defaults() {
  if (kind != ModelKind::stream) return;
  if (cross_period_min_ms == 0) cross_period_min_ms = 4 * bin_ms;
  if (cross_period_max_ms == 0)
    cross_period_max_ms = std::max(4 * receptive_steps * step_ms, cross_period_min_ms);
  if (block_period_min_ms == 0) block_period_min_ms = 2 * step_ms;
  if (block_period_max_ms == 0) block_period_max_ms = 4 * window_steps * step_ms;
}

void ModelConfig::set_linear_shape() {
  dim = head_dim = 2;
  layers = heads = latents = window_steps = receptive_steps = 1;
}

Result<void> ModelConfig::validate() const {
  const auto in_range = [](const char* field, std::int64_t v, std::int64_t low,
                           std::int64_t high) -> std::optional<Error> {
    if (v >= low && v <= high) return std::nullopt;
    return bad_field(field, fmt::format("is {}, allowed are {} to {}", v, low, high));
  };
  for (const auto& e :
       {in_range("dim", dim, linear() ? 1 : 2, 8192), in_range("layers", layers, 1, 128),
        in_range("heads", heads, 1, 256), in_range("head_dim", head_dim, linear() ? 1 : 2, 512),
        in_range("mlp_ratio", mlp_ratio, 1, 16), in_range("latents", latents, 1, 4096),
        in_range("value_buckets", value_buckets, 2, 4096),
        in_range("output.names", outputs(), 1, 1024)})
    if (e) return *e;
  if (heads * head_dim != dim)
    return bad_field("head_dim",
                     fmt::format("is {}: {} heads of it are not dim {}", head_dim, heads, dim));
  if (head_dim % 2 && !linear())
    return bad_field("head_dim", fmt::format("is {}, which is odd", head_dim));
  if (!finite_positive(bin_ms)) return bad_field("bin_ms", fmt::format("is {}", bin_ms));
  if (output_units.size() != output_names.size())
    return bad_field("output.units", fmt::format("has {} entries for {} names", output_units.size(),
                                                 output_names.size()));
  if (kind == ModelKind::window) {
    for (const auto& e : {in_range("max_neurons", max_neurons, 1, 1 << 20),
                          in_range("max_bins", max_bins, 1, 1 << 20),
                          in_range("window_bins", window_bins, 0, max_bins)})
      if (e) return *e;
    if (!std::isfinite(receptive_ms) || receptive_ms < 0)
      return bad_field("receptive_ms", fmt::format("is {}", receptive_ms));
    return {};
  }
  if (norm != NormKind::rmsnorm) return bad_field("norm", "must be rmsnorm in a stream decoder");
  const char* reach = kind == ModelKind::ridge ? "lags" : "receptive_steps";
  for (const auto& e :
       {in_range("window_steps", window_steps, kind == ModelKind::kalman ? 2 : 1, 4096),
        in_range(reach, receptive_steps, 1, kind == ModelKind::ridge ? kMostLags : 5),
        in_range("latents", latents, 1, 64),
        in_range("max_events_per_step", max_events_per_step, 1, 1 << 20),
        in_range("units", static_cast<std::int64_t>(units.size()), 1, 1 << 20)})
    if (e) return *e;
  if (!finite_positive(step_ms)) return bad_field("step_ms", fmt::format("is {}", step_ms));
  const double k = step_ms / bin_ms;
  if (k < 0.5 || k > 1000 || std::abs(k - std::round(k)) > 1e-9)
    return bad_field("step_ms",
                     fmt::format("is {}, not a whole multiple of bin_ms {}", step_ms, bin_ms));
  if (kind == ModelKind::kalman && outputs() > dim)
    return bad_field("state", fmt::format("has {} dimensions for {} outputs", dim, outputs()));
  const auto periods = [](const char* field, double low, double high) -> std::optional<Error> {
    if (finite_positive(low) && std::isfinite(high) && high >= low) return std::nullopt;
    return bad_field(field, fmt::format("are [{}, {}]", low, high));
  };
  if (!linear()) {
    if (const auto e = periods("rope.cross", cross_period_min_ms, cross_period_max_ms)) return *e;
    if (const auto e = periods("rope.block", block_period_min_ms, block_period_max_ms)) return *e;
  }
  if (!std::isfinite(target_offset_ms))
    return bad_field("target_offset_ms", fmt::format("is {}", target_offset_ms));
  std::set<std::string> ids;
  for (const ModelUnit& u : units)
    if (!ids.insert(u.id).second)
      return bad_field("units", fmt::format("holds id '{}' twice", u.id));
  return {};
}

const std::vector<std::string>& preset_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> list;
    for (const Preset& p : kPresets) list.emplace_back(p.name);
    return list;
  }();
  return names;
}

Result<ModelConfig> preset_config(const std::string& name) {
  for (const Preset& p : kPresets) {
    if (name != p.name) continue;
    ModelConfig c;
    c.kind = p.kind;
    c.preset = name;
    c.dim = p.dim;
    c.layers = p.layers;
    c.heads = p.heads;
    c.head_dim = p.dim / p.heads;
    c.latents = p.latents;
    c.output_names = {"vel_x", "vel_y"};
    c.output_units = {"mm/s", "mm/s"};
    c.set_defaults();
    return c;
  }
  return Error{ErrorCode::not_found,
               fmt::format("no preset '{}'; there are {}", name, fmt::join(preset_names(), ", ")),
               "preset"};
}

Result<ModelConfig> parse_config(const std::string& json, const std::string& file) {
  simdjson::dom::parser parser;
  auto root = parse_object(parser, json, file);
  if (!root) return root.error();
  FieldReader reader(*root, file + ": cortex.config");
  ModelConfig c;
  int format = 0;
  std::string kind;
  std::string norm = "rmsnorm";
  element output;
  reader.read("format", format);
  reader.read("kind", kind);
  if (format != 1) reader.fail("format", fmt::format("is {}, this build reads 1", format));
  const auto known = std::find(std::begin(kKinds), std::end(kKinds), kind);
  if (known == std::end(kKinds))
    reader.fail("kind", fmt::format("is '{}', not one of {}", kind, fmt::join(kKinds, ", ")));
  else
    c.kind = static_cast<ModelKind>(known - std::begin(kKinds));
  reader.read("preset", c.preset, false);
  reader.read("norm", norm, false);
  if (norm != "rmsnorm" && norm != "layernorm")
    reader.fail("norm", fmt::format("is '{}', not rmsnorm or layernorm", norm));
  c.norm = norm == "layernorm" ? NormKind::layernorm : NormKind::rmsnorm;
  const bool transformer = !c.linear();
  if (transformer) {
    reader.read("dim", c.dim);
    reader.read("layers", c.layers);
    reader.read("heads", c.heads);
    reader.read("head_dim", c.head_dim);
    reader.read("mlp_ratio", c.mlp_ratio);
    reader.read("latents", c.latents);
    reader.read("value_buckets", c.value_buckets);
  } else {
    c.set_linear_shape();
  }
  reader.read("bin_ms", c.bin_ms);
  reader.read("output", output);
  element training;
  reader.read("training", training, false);
  const bool stream = c.streams();
  element rope;
  element units;
  if (stream) {
    reader.read("step_ms", c.step_ms);
    if (transformer) {
      reader.read("window_steps", c.window_steps);
      reader.read("receptive_steps", c.receptive_steps);
      reader.read("rope", rope);
    } else if (c.kind == ModelKind::ridge) {
      reader.read("lags", c.receptive_steps);
    } else {
      reader.read("state", c.dim);
      reader.read("memory_steps", c.window_steps);
      reader.read("skip_empty_steps", c.skip_empty_steps);
      c.head_dim = c.dim;
    }
    reader.read("max_events_per_step", c.max_events_per_step);
    reader.read("target_offset_ms", c.target_offset_ms);
    reader.read("units", units);
  } else {
    reader.read("max_neurons", c.max_neurons);
    reader.read("max_bins", c.max_bins);
    reader.read("window_bins", c.window_bins);
    reader.read("receptive_ms", c.receptive_ms);
  }
  if (const auto e = reader.finish(true)) return *e;

  object fields;
  if (output.get(fields)) {
    reader.fail("output", "is not an object");
    return *reader.finish(false);
  }
  FieldReader out(fields, file + ": cortex.config.output");
  out.read("names", c.output_names);
  out.read("units", c.output_units);
  if (const auto e = out.finish(true)) return *e;
  if (stream && transformer) {
    if (rope.get(fields)) {
      reader.fail("rope", "is not an object");
      return *reader.finish(false);
    }
    FieldReader periods(fields, file + ": cortex.config.rope");
    periods.read("cross_min_ms", c.cross_period_min_ms);
    periods.read("cross_max_ms", c.cross_period_max_ms);
    periods.read("block_min_ms", c.block_period_min_ms);
    periods.read("block_max_ms", c.block_period_max_ms);
    if (const auto e = periods.finish(true)) return *e;
  }
  if (stream)
    if (const auto e = read_units(units, file, c.units)) return *e;
  element as_is;
  if (!(*root)["training"].get(as_is)) c.training_json = simdjson::minify(as_is);
  if (const auto ok = c.validate(); !ok) {
    Error e = ok.error();
    e.code = ErrorCode::corrupt_data;
    e.message = file + ": " + e.message;
    return e;
  }
  return c;
}

Result<ModelConfig> parse_published_config(const std::string& json, const std::string& file) {
  simdjson::dom::parser parser;
  auto root = parse_object(parser, json, file);
  if (!root) return root.error();
  FieldReader reader(*root, file);
  ModelConfig c;
  c.kind = ModelKind::window;
  c.norm = NormKind::layernorm;
  int outputs = 0;
  int latent_dim = 0;
  int cross_heads = 0;
  double mlp_ratio = 4;
  reader.read("hidden_dim", c.dim);
  reader.read("num_layers", c.layers);
  reader.read("num_heads", c.heads);
  reader.read("head_dim", c.head_dim);
  reader.read("num_latents", c.latents);
  reader.read("latent_dim", latent_dim);
  reader.read("cross_attn_heads", cross_heads);
  reader.read("mlp_ratio", mlp_ratio);
  reader.read("behavior_dim", outputs);
  reader.read("spike_value_buckets", c.value_buckets);
  reader.read("max_neurons", c.max_neurons);
  reader.read("max_time_bins", c.max_bins);
  if (latent_dim != c.dim)
    reader.fail("latent_dim",
                fmt::format("is {}, only hidden_dim {} is supported", latent_dim, c.dim));
  if (cross_heads != c.heads)
    reader.fail("cross_attn_heads",
                fmt::format("is {}, only num_heads {} is supported", cross_heads, c.heads));
  c.mlp_ratio = static_cast<int>(std::lround(mlp_ratio));
  if (c.mlp_ratio != mlp_ratio)
    reader.fail("mlp_ratio", fmt::format("is {}, not a whole number", mlp_ratio));
  if (outputs < 1 || outputs > 1024) reader.fail("behavior_dim", fmt::format("is {}", outputs));
  if (const auto e = reader.finish(false)) return *e;
  for (int i = 0; i < outputs; ++i) {
    c.output_names.push_back(fmt::format("behavior_{}", i));
    c.output_units.emplace_back("");
  }
  if (const auto ok = c.validate(); !ok) return ok.error();
  return c;
}

std::string to_json(const ModelConfig& c) {
  JsonWriter w;
  w.begin_object().key("format").value(1).key("kind").value(to_string(c.kind));
  w.key("preset").value(c.preset);
  if (!c.linear()) {
    w.key("norm").value(to_string(c.norm));
    w.key("dim").value(c.dim).key("layers").value(c.layers).key("heads").value(c.heads);
    w.key("head_dim").value(c.head_dim).key("mlp_ratio").value(c.mlp_ratio);
    w.key("latents").value(c.latents).key("value_buckets").value(c.value_buckets);
  }
  w.key("bin_ms").value(c.bin_ms);
  w.key("output").begin_object().key("names").begin_array();
  for (const auto& n : c.output_names) w.value(n);
  w.end_array().key("units").begin_array();
  for (const auto& u : c.output_units) w.value(u);
  w.end_array().end_object();
  if (c.kind == ModelKind::window) {
    w.key("max_neurons").value(c.max_neurons).key("max_bins").value(c.max_bins);
    w.key("window_bins").value(c.window_bins).key("receptive_ms").value(c.receptive_ms);
  } else {
    w.key("step_ms").value(c.step_ms);
    if (c.kind == ModelKind::stream) {
      w.key("window_steps").value(c.window_steps);
      w.key("receptive_steps").value(c.receptive_steps);
    } else if (c.kind == ModelKind::ridge) {
      w.key("lags").value(c.receptive_steps);
    } else {
      w.key("state").value(c.dim).key("memory_steps").value(c.window_steps);
      w.key("skip_empty_steps").value(c.skip_empty_steps);
    }
    w.key("max_events_per_step").value(c.max_events_per_step);
    w.key("target_offset_ms").value(c.target_offset_ms);
    if (c.kind == ModelKind::stream) {
      w.key("rope").begin_object().key("cross_min_ms").value(c.cross_period_min_ms);
      w.key("cross_max_ms").value(c.cross_period_max_ms);
      w.key("block_min_ms").value(c.block_period_min_ms);
      w.key("block_max_ms").value(c.block_period_max_ms).end_object();
    }
    w.key("units").begin_array();
    for (const ModelUnit& u : c.units) {
      w.begin_object().key("id").value(u.id).key("session").value(u.session);
      if (u.electrode) w.key("electrode").value(*u.electrode);
      w.key("rate_hz").value(u.rate_hz).end_object();
    }
    w.end_array();
  }
  if (!c.training_json.empty()) w.key("training").raw(c.training_json);
  w.end_object();
  return w.text();
}

}  // namespace cortex
