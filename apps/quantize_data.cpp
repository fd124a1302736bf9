#include "quantize_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "data/nwb.h"
#include "data/prepare.h"

namespace cortex {
namespace {

// A window decoder states no step: windows end this far apart, as in training.
constexpr double kWindowStepMs = 20;
constexpr double kHeldOutPart = 0.2;

SteppedRecording cut(const Recording& recording, const ModelConfig& c,
                     const QuantizeDataOptions& options) {
  StepOptions step;
  step.bin_ms = c.bin_ms;
  step.target = options.target;
  step.allow_missing_units = options.allow_missing_units;
  if (c.kind == ModelKind::stream) {
    step.step_ms = c.step_ms;
    step.target_offset_ms = c.target_offset_ms;
    for (const ModelUnit& unit : c.units) step.unit_ids.push_back(unit.id);
  } else {
    step.step_ms = c.bin_ms * std::max(1.0, std::round(kWindowStepMs / c.bin_ms));
  }
  SteppedRecording stepped = step_recording(recording, step).value_or_throw();
  if (static_cast<int>(stepped.unit_ids.size()) > c.unit_count())
    throw Exception{{ErrorCode::invalid_argument,
                     fmt::format("{} has {} units, the model {}", recording.path,
                                 stepped.unit_ids.size(), c.unit_count()),
                     "nwb"}};
  if (stepped.dims != 0 && static_cast<int>(stepped.dims) != c.outputs())
    throw Exception{{ErrorCode::invalid_argument,
                     fmt::format("{}: the target has {} dimensions, the model decodes {}; --target "
                                 "chooses another series",
                                 recording.path, stepped.dims, c.outputs()),
                     "target"}};
  return stepped;
}

bool has_target(const SteppedRecording& stepped, std::size_t step) {
  for (std::size_t d = 0; d < stepped.dims; ++d)
    if (!std::isfinite(stepped.target[step * stepped.dims + d])) return false;
  return true;
}

/// Keeps the last fifth of what `mask` has.
void keep_last(std::vector<std::uint8_t>& mask) {
  const auto all = static_cast<double>(std::count(mask.begin(), mask.end(), 1));
  auto drop = static_cast<std::int64_t>(std::llround(all * (1 - kHeldOutPart)));
  for (std::uint8_t& m : mask)
    if (m != 0 && drop-- > 0) m = 0;
}

/// Which steps are held out, with or without behaviour to score; and what they are.
std::pair<std::vector<std::uint8_t>, std::string> hold_out(const SteppedRecording& stepped,
                                                           const Recording& recording,
                                                           const QuantizeDataOptions& options) {
  std::set<std::string> present;
  for (const Trial& trial : recording.trials) present.insert(trial.split);
  std::set<std::string> wanted;
  for (std::size_t at = 0; at <= options.split.size();) {
    const std::size_t comma = std::min(options.split.find(',', at), options.split.size());
    wanted.insert(options.split.substr(at, comma - at));
    at = comma + 1;
  }
  const bool labelled = std::any_of(wanted.begin(), wanted.end(),
                                    [&](const auto& split) { return present.contains(split); });
  // Trials are in no promised order: the last are those that start last.
  std::vector<double> starts;
  for (const Trial& trial : recording.trials) starts.push_back(trial.span.start_s);
  std::sort(starts.begin(), starts.end());
  const auto first =
      static_cast<std::size_t>(std::floor((1 - kHeldOutPart) * static_cast<double>(starts.size())));
  const auto held = [&](std::size_t step) {
    const std::int32_t index = stepped.trial[step];
    if (index < 0) return false;
    const Trial& trial = recording.trials[static_cast<std::size_t>(index)];
    return labelled ? wanted.contains(trial.split) : trial.span.start_s >= starts[first];
  };
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(stepped.steps()), 0);
  for (std::size_t s = 0; s < mask.size(); ++s)
    mask[s] = stepped.observed[s] != 0 && (starts.empty() || held(s)) ? 1 : 0;
  if (labelled) return {mask, fmt::format("trials of split '{}'", options.split)};
  if (!starts.empty())
    return {mask, fmt::format("the last fifth of the trials, since none is in split '{}'",
                              options.split)};
  keep_last(mask);
  return {mask, "the last fifth of the observed steps, since the file has no trials"};
}

/// The window that ends with each step of `ends`.
void cut_windows(const SteppedRecording& stepped, const ModelConfig& c,
                 const std::vector<std::size_t>& ends, Calibration& calibration) {
  const std::int64_t bins = c.nominal_bins();
  const auto per_step = static_cast<std::int64_t>(std::llround(stepped.step_ms / stepped.bin_ms));
  const std::int64_t reach = (bins + per_step - 1) / per_step;
  for (const std::size_t end : ends) {
    const auto step = static_cast<std::int64_t>(end);
    const std::int64_t start = (step + 1) * per_step - bins;
    for (std::int64_t s = std::max<std::int64_t>(0, step + 1 - reach); s <= step; ++s)
      for (Event event : stepped.step_events(s)) {
        event.bin -= start;
        if (event.bin >= 0) calibration.events.push_back(event);
      }
    calibration.indptr.push_back(static_cast<std::int64_t>(calibration.events.size()));
  }
}

/// At most `most` observed steps, half of them held out, evenly spread.
std::vector<std::size_t> sample_steps(const SteppedRecording& stepped,
                                      const std::vector<std::uint8_t>& held_out, std::size_t steps,
                                      std::size_t most) {
  std::vector<std::size_t> chosen;
  for (const std::uint8_t held : {0, 1}) {
    std::vector<std::size_t> all;
    for (std::size_t s = 0; s < steps; ++s)
      if (stepped.observed[s] != 0 && held_out[s] == held) all.push_back(s);
    const std::size_t n = std::min(all.size(), std::max<std::size_t>(1, most / 2));
    for (std::size_t i = 0; i < n; ++i) chosen.push_back(all[i * all.size() / n]);
  }
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

}  // namespace

QuantizeData read_quantize_data(const ModelConfig& config, const QuantizeDataOptions& options) {
  Recording recording = read_nwb(options.nwb).value_or_throw();
  // As in training, so that no trial that was learned from is taken for one held back.
  const auto said = prepare(recording, {.target = options.target}).value_or_throw();
  const SteppedRecording stepped = cut(recording, config, options);
  auto steps = static_cast<std::size_t>(stepped.steps());
  if (options.seconds > 0)
    steps = std::min(
        steps, static_cast<std::size_t>(std::llround(options.seconds * 1e3 / stepped.step_ms)));
  auto [held_out, means] = hold_out(stepped, recording, options);
  if (said.size() > 1) means += "; " + said[1];

  QuantizeData data;
  data.held_out_means = std::move(means);
  data.dims = stepped.dims;
  std::vector<std::size_t> kept;  // steps that are items
  if (config.kind == ModelKind::stream) {
    for (std::size_t s = 0; s < steps; ++s) kept.push_back(s);
    data.calibration.indptr.assign(stepped.indptr.begin(),
                                   stepped.indptr.begin() + static_cast<std::ptrdiff_t>(steps) + 1);
    data.calibration.events.assign(stepped.events.begin(),
                                   stepped.events.begin() + data.calibration.indptr.back());
  } else {
    kept = sample_steps(stepped, held_out, steps, static_cast<std::size_t>(options.windows));
    cut_windows(stepped, config, kept, data.calibration);
  }
  for (const std::size_t s : kept) {
    const bool observed = stepped.observed[s] != 0;
    data.observed.push_back(observed ? 1 : 0);
    data.calibration.counted.push_back(observed && held_out[s] == 0 ? 1 : 0);
    data.held_out.push_back(held_out[s] != 0 && stepped.dims > 0 && has_target(stepped, s) ? 1 : 0);
    for (std::size_t d = 0; d < stepped.dims; ++d)
      data.target.push_back(stepped.target[s * stepped.dims + d]);
  }
  return data;
}

}  // namespace cortex
