#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "train/baseline_nets.h"
#include "train/decode_model.h"
#include "train/runtime.h"
#include "train/setup.h"
#include "train/spike_head.h"

namespace cortex::train {
namespace {

Error bad(const char* flag, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("--{} {}", flag, what), flag};
}

/// Spikes alone, so that nothing depends on a behaviour that some files have.
std::vector<Recording> without_behavior(std::vector<Recording> recordings) {
  for (Recording& recording : recordings) {
    recording.behavior.clear();
    recording.target.clear();
  }
  return recordings;
}

}  // namespace

Result<TrainReport> pretrain(const TrainOptions& options) {
  auto recordings = load_recordings(options.data);
  if (!recordings) return recordings.error();
  return pretrain(options, *recordings);
}

Result<TrainReport> pretrain(const TrainOptions& options,
                             const std::vector<Recording>& recordings) {
  const auto preset = find_preset(options.preset);
  if (!preset) return preset.error();
  if (preset->kind != ModelKind::stream || is_baseline(options.preset))
    return bad("preset",
               fmt::format("{} is no stream decoder, which alone is pretrained", options.preset));
  if (!options.init.empty()) return bad("init", "is for training: pretraining starts from nothing");
  TrainOptions o = options;
  if (!o.hiding) o.hiding = HidingOptions{};
  o.data.target = "auto";
  o.data.protocol = {};
  o.data.protocol.spikes = true;
  return train(o, without_behavior(recordings));
}

Result<EvaluateReport> evaluate_spikes(const EvaluateOptions& options,
                                       const std::vector<Recording>& recordings) {
  for (const auto& [flag, given] :
       {std::pair{"against", !options.against.empty()},
        std::pair{"reset-each-trial", options.reset_each_trial},
        std::pair{"units-kept", options.units_kept != 1},
        std::pair{"folds", options.data.folds && options.data.fold < 0}})
    if (given)
      return bad(flag, "is for models that decode behaviour: " + options.model + " is pretrained");
  auto model = load_pretrained(options.model);
  if (!model) return model.error();
  DataOptions data = options.data;
  data.target = "auto";
  data.bin_ms = model->config.bin_ms;
  data.step_ms = model->config.step_ms;
  data.protocol.spikes = true;
  StepOptions step = step_options(data);
  for (const ModelUnit& unit : model->config.units) step.unit_ids.push_back(unit.id);
  const std::string split = data.folds ? "test" : options.split;
  const auto timeline = make_timeline(without_behavior(recordings), step, split, OtherTrials::keep,
                                      data.protocol, units_by(model->config));
  if (!timeline) return timeline.error();
  EvaluateReport report;
  report.model = options.model;
  report.protocol = to_string(data.protocol.protocol);
  report.clock = "continuous";
  report.r2 = std::numeric_limits<double>::quiet_NaN();
  report.steps = timeline->scored();
  const std::vector<std::uint8_t>& hidden = timeline->unit_held_out;
  report.held_out_units = std::count(hidden.begin(), hidden.end(), 1);
  if (report.held_out_units == 0 || report.steps == 0)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{} units are marked as held out and {} steps of '{}' trials can be "
                             "scored: nothing tells how well held-out spikes are told",
                             report.held_out_units, report.steps, split),
                 "nwb"};
  std::set<std::int32_t> trials;
  for (const TimelinePart& part : timeline->parts)
    trials.insert(part.scored_trial.begin(), part.scored_trial.end());
  trials.erase(-1);
  report.trials = static_cast<std::int64_t>(trials.size());
  auto device = pick_device(options.device);
  if (!device) return device.error();
  ParameterSet params(pretrained_specs(model->config), *device);
  params.load(model->tensors);
  const CoSmoothing told = co_smoothing(SpikeNet(model->config, params), *timeline, hidden);
  report.co_bps = told.bits_per_spike;
  report.held_out_spikes = told.spikes;
  return report;
}

}  // namespace cortex::train
