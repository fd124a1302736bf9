#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "train/baseline_nets.h"
#include "train/decode_model.h"
#include "train/setup.h"
#include "train/spike_head.h"

namespace cortex::train {
namespace {

// One row a unit: what a new session brings along.
const std::vector<std::string> kUnitTensors = {"tokenizer.unit_emb", "tokenizer.additive"};

Error differs(const std::string& path, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("{} cannot be gone on with: {}", path, what),
          "init"};
}

/// Rows of `units`: the model's own by id, others the mean of all. An id alone says little, since
/// another session's unit 7 is another unit, unless `any_session`.
Tensor rows_for(const Tensor& table, const std::vector<ModelUnit>& known,
                const std::vector<ModelUnit>& units, bool any_session) {
  const auto width = static_cast<std::size_t>(table.shape()[1]);
  const auto from = table.f32();
  std::vector<float> mean(width, 0);
  for (std::size_t i = 0; i < from.size(); ++i)
    mean[i % width] += from[i] / static_cast<float>(known.size());
  std::unordered_map<std::string, std::size_t> by_id;
  for (std::size_t u = 0; u < known.size(); ++u) by_id.emplace(known[u].id, u);
  Tensor out({static_cast<std::int64_t>(units.size()), static_cast<std::int64_t>(width)});
  for (std::size_t u = 0; u < units.size(); ++u) {
    auto found = by_id.find(units[u].id);
    if (found == by_id.end()) found = by_id.find(session_unit_id(units[u].session, units[u].id));
    const bool same =
        found != by_id.end() && (any_session || known[found->second].session == units[u].session);
    const float* row = same ? from.data() + found->second * width : mean.data();
    std::copy_n(row, width, out.f32().begin() + static_cast<std::ptrdiff_t>(u * width));
  }
  return out;
}

}  // namespace

Result<StartingPoint> starting_point(const TrainOptions& options, const Timeline& timeline) {
  StartingPoint out;
  if (options.init.empty()) {
    auto config = make_config(options, timeline);
    if (!config) return config.error();
    out.config = *std::move(config);
    out.weights = initial_weights(out.config, options.seed);
    if (options.hiding) out.weights.merge(initial_spike_head(out.config, options.seed));
    out.mean = timeline.target_mean();
    out.std = timeline.target_std();
    return out;
  }
  const bool pretrained = is_pretrained_file(options.init);
  auto loaded = pretrained                       ? load_pretrained(options.init)
                : is_baseline_file(options.init) ? load_baseline(options.init)
                                                 : load_model(options.init);
  if (!loaded) return loaded.error();
  const ModelConfig& c = loaded->config;
  if (c.kind != ModelKind::stream || !loaded->tensors.contains(kUnitTensors.back()))
    return differs(options.init, "it is no stream decoder");
  const double offset = options.data.target_offset_ms.value_or(-options.data.step_ms / 2);
  if (c.bin_ms != options.data.bin_ms || c.step_ms != options.data.step_ms ||
      (c.target_offset_ms != offset && !pretrained))
    return differs(
        options.init,
        fmt::format("it has bins of {} ms, steps of {} ms and answers for {} ms, not {}, "
                    "{} and {}",
                    c.bin_ms, c.step_ms, c.target_offset_ms, options.data.bin_ms,
                    options.data.step_ms, offset));
  if (pretrained && options.learn == "units")
    return differs(options.init, "it has no velocity head yet, which --learn units would leave so");
  if (!pretrained && (c.outputs() != static_cast<int>(timeline.dims) ||
                      c.output_units.front() != timeline.output_unit))
    return differs(options.init, fmt::format("it answers {} values in '{}', the target has {} in "
                                             "'{}'",
                                             c.outputs(), c.output_units.front(), timeline.dims,
                                             timeline.output_unit));
  out.config = c;
  out.config.training_json.clear();
  out.config.units.clear();
  for (std::size_t u = 0; u < timeline.unit_ids.size(); ++u)
    out.config.units.push_back(
        {timeline.unit_ids[u], timeline.unit_sessions[u], std::nullopt, timeline.unit_rates_hz[u]});
  if (pretrained) {
    out.config.output_names = timeline.output_names;
    out.config.output_units.assign(timeline.dims, timeline.output_unit);
    out.config.target_offset_ms = offset;
    out.mean = timeline.target_mean();
    out.std = timeline.target_std();
  } else {
    out.mean = output_constant(*loaded, "output.mean", 0);
    out.std = output_constant(*loaded, "output.std", 1);
  }
  for (auto& [name, tensor] : loaded->tensors) {
    const auto scale = loaded->tensors.find(scale_name(name));
    Tensor wide = to_float(tensor, scale == loaded->tensors.end() ? nullptr : &scale->second);
    if (std::find(kUnitTensors.begin(), kUnitTensors.end(), name) != kUnitTensors.end())
      wide = rows_for(wide, c.units, out.config.units, options.init_rows == "id");
    out.weights.emplace(name, std::move(wide));
  }
  if (pretrained) {
    for (const TensorSpec& spec : spike_head_specs(c)) out.weights.erase(spec.name);
    out.weights.merge(initial_weights(out.config, options.seed));
  }
  if (options.learn == "units")
    for (const std::string& name : kUnitTensors)
      if (out.weights.contains(name)) out.learned.push_back(name);
  return out;
}

}  // namespace cortex::train
