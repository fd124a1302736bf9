#include "train/decode_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "model/linear_model.h"
#include "train/baseline_nets.h"
#include "train/runtime.h"
#include "train/setup.h"

namespace cortex::train {
namespace {

void silence_units(Timeline& timeline, const DecodeChoices& choices) {
  std::vector<std::uint8_t> keep(timeline.unit_ids.size(), 0);
  std::vector<std::size_t> order(keep.size());
  for (std::size_t u = 0; u < order.size(); ++u) order[u] = u;
  CounterRandom random(choices.units_seed, 0, 0);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1],
              order[static_cast<std::size_t>(random.below(static_cast<std::int64_t>(i)))]);
  const auto kept =
      static_cast<std::size_t>(std::lround(choices.units_kept * static_cast<double>(order.size())));
  for (std::size_t i = 0; i < kept; ++i) keep[order[i]] = 1;
  for (TimelinePart& part : timeline.parts)
    keep_events(part, [&](const Event& e) { return keep[static_cast<std::size_t>(e.unit)] != 0; });
}

}  // namespace

UnitsBy units_by(const ModelConfig& c) {
  const bool named = std::all_of(c.units.begin(), c.units.end(), [](const ModelUnit& u) {
    return !u.session.empty() && u.id.rfind(u.session + "/", 0) == 0;
  });
  return named && !c.units.empty() ? UnitsBy::session : UnitsBy::id;
}

Decoded decode_linear(const ModelFile& model, const Timeline& timeline) {
  const ModelConfig& c = model.config;
  std::vector<double> state(static_cast<std::size_t>(c.dim));
  const auto decoder =
      make_linear_stream(model, 1, {reinterpret_cast<std::byte*>(state.data()), 0, 1, DType::f32});
  const std::vector<std::int32_t> page = {0};
  const std::int64_t bins = c.bins_per_step();
  Decoded out;
  for (const TimelinePart& part : timeline.parts) {
    out.mask.insert(out.mask.end(), part.mask.begin(), part.mask.end());
    out.truth.insert(out.truth.end(), part.target.begin(), part.target.end());
    for (std::int64_t s = 0; s < part.steps(); ++s) {
      StreamBatch& batch = decoder->batch();
      batch.clear();
      for (std::int64_t r = std::max<std::int64_t>(0, s - c.receptive_steps + 1); r <= s; ++r)
        batch.add_events(
            std::span(part.events)
                .subspan(static_cast<std::size_t>(part.indptr[r]),
                         static_cast<std::size_t>(part.indptr[r + 1] - part.indptr[r])),
            (s + 1) * bins);
      batch.add_step(s, page, 0,
                     static_cast<std::int32_t>(std::min<std::int64_t>(s + 1, c.window_steps)));
      for (const float y : decoder->forward())
        out.values.push_back(part.mask[static_cast<std::size_t>(s)] ? y : 0.0f);
    }
  }
  out.score = r2_score(out.truth, out.values, out.mask, timeline.dims);
  return out;
}

std::vector<float> output_constant(const ModelFile& model, const char* name, float otherwise) {
  const auto found = model.tensors.find(name);
  if (found == model.tensors.end())
    return std::vector<float>(static_cast<std::size_t>(model.config.outputs()), otherwise);
  const auto values = found->second.f32();
  return {values.begin(), values.end()};
}

Result<OpenedModel> open_for(const std::string& path, const DataOptions& data,
                             const std::string& split, const std::vector<Recording>& recordings,
                             bool ignore_other_units) {
  OpenedModel out;
  out.baseline = is_baseline_file(path);
  auto model = out.baseline ? load_baseline(path) : load_model(path);
  if (!model) return model.error();
  const ModelConfig& c = model->config;
  out.data = data;
  out.data.bin_ms = c.bin_ms;
  if (c.streams()) {
    out.data.step_ms = c.step_ms;
    out.data.target_offset_ms = c.target_offset_ms;
  } else {
    // A window decoder states no step: windows end every step_ms, whole bins apart.
    out.data.step_ms = c.bin_ms * std::max(1.0, std::round(data.step_ms / c.bin_ms));
  }
  StepOptions step = step_options(out.data);
  for (const ModelUnit& unit : c.units) step.unit_ids.push_back(unit.id);
  step.allow_missing_units = ignore_other_units;
  auto timeline =
      make_timeline(recordings, step, split, OtherTrials::keep, data.protocol, units_by(c));
  if (!timeline) return timeline.error();
  if (static_cast<int>(timeline->dims) != c.outputs())
    return Error{ErrorCode::invalid_argument,
                 fmt::format("'{}' has {} dimensions, the model decodes {}", out.data.target,
                             timeline->dims, c.outputs()),
                 "target"};
  if (static_cast<int>(timeline->unit_ids.size()) > c.unit_count())
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the recording has {} units, the model {}", timeline->unit_ids.size(),
                             c.unit_count()),
                 "nwb"};
  if (timeline->scored() == 0)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("no step of a '{}' trial can be scored", split), "split"};
  out.model = *std::move(model);
  out.timeline = *std::move(timeline);
  return out;
}

Result<DecodedModel> decode_model(const std::string& path, const DataOptions& data,
                                  const std::string& split,
                                  const std::vector<Recording>& recordings,
                                  const DecodeChoices& choices) {
  if (!(choices.units_kept > 0 && choices.units_kept <= 1))
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the share of units kept is {}, not in (0, 1]", choices.units_kept),
                 "units-kept"};
  auto opened = open_for(path, data, split, recordings, choices.ignore_other_units);
  if (!opened) return opened.error();
  auto device = pick_device(choices.device);
  if (!device) return device.error();
  DecodedModel out;
  out.timeline =
      choices.reset_each_trial ? cut_at_trials(opened->timeline) : std::move(opened->timeline);
  if (choices.units_kept < 1) silence_units(out.timeline, choices);
  const ModelFile& model = opened->model;
  if (model.config.linear()) {
    out.decoded = decode_linear(model, out.timeline);
  } else {
    ParameterSet params(parameter_specs(model.config), *device);
    params.load(model.tensors);
    const auto network = make_network(model.config, params, opened->data.step_ms);
    out.decoded = decode_timeline(*network, out.timeline, output_constant(model, "output.mean", 0),
                                  output_constant(model, "output.std", 1));
  }
  std::vector<std::int32_t> trial;
  for (const TimelinePart& part : out.timeline.parts) {
    trial.insert(trial.end(), part.scored_trial.begin(), part.scored_trial.end());
    for (std::size_t s = 0; s < part.mask.size(); ++s)
      out.unobserved += part.mask[s] && !part.observed[s];
  }
  out.trials = score_trials(out.decoded.truth, out.decoded.values, out.decoded.mask, trial,
                            out.timeline.dims);
  out.config = model.config;
  out.digest = model.digest;
  return out;
}

}  // namespace cortex::train
