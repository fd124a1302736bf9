#include "data/protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "data/folds.h"

namespace cortex {
namespace {

constexpr const char* kNames[] = {"causal", "onset", "nlb"};
// Times are decimal fractions that doubles miss by an ulp.
constexpr double kEdge = 1e-6;

/// Marks the steps of aligned protocols, a trial at a time.
class Aligner {
 public:
  Aligner(const SteppedRecording& stepped, const Recording& recording, double target_offset_ms,
          bool with_target)
      : stepped_(stepped),
        recording_(recording),
        with_target_(with_target),
        offset_s_(target_offset_ms * 1e-3),
        step_s_(stepped.step_ms * 1e-3) {
    out.mask.assign(static_cast<std::size_t>(stepped.steps()), 0);
    out.trial.assign(static_cast<std::size_t>(stepped.steps()), -1);
  }

  /// Step whose target time is `time_s`, as a fraction.
  double place(double time_s) const {
    return (time_s - offset_s_ - stepped_.origin_s) / step_s_ - 1;
  }

  void claim(std::int64_t step, std::size_t trial) {
    if (step < 0 || step >= stepped_.steps() || out.mask[static_cast<std::size_t>(step)]) return;
    for (std::size_t d = 0; with_target_ && d < stepped_.dims; ++d)
      if (!std::isfinite(stepped_.target[static_cast<std::size_t>(step) * stepped_.dims + d]))
        return;
    const double time = stepped_.origin_s + static_cast<double>(step + 1) * step_s_ + offset_s_;
    for (std::size_t t = 0; t < recording_.trials.size(); ++t) {
      const Interval& span = recording_.trials[t].span;
      if (t != trial && time >= span.start_s && time < span.stop_s) return;
    }
    out.mask[static_cast<std::size_t>(step)] = 1;
    out.trial[static_cast<std::size_t>(step)] = static_cast<std::int32_t>(trial);
  }

  ScoredSteps out;

 private:
  const SteppedRecording& stepped_;
  const Recording& recording_;
  bool with_target_;
  double offset_s_;
  double step_s_;
};

}  // namespace

const char* to_string(Protocol protocol) { return kNames[static_cast<int>(protocol)]; }

Result<Protocol> parse_protocol(const std::string& name) {
  for (int i = 0; i < 3; ++i)
    if (name == kNames[i]) return static_cast<Protocol>(i);
  return Error{ErrorCode::invalid_argument,
               fmt::format("protocol '{}' is not causal, onset or nlb", name), "protocol"};
}

Result<ScoredSteps> protocol_steps(const SteppedRecording& stepped, const Recording& recording,
                                   const std::string& splits, double target_offset_ms,
                                   const ProtocolOptions& options) {
  auto inside = scored_steps(stepped, recording, splits, !options.spikes);
  if (!inside) return inside.error();
  if (options.protocol == Protocol::causal) {
    ScoredSteps out{*std::move(inside), stepped.trial};
    for (std::size_t s = 0; s < out.mask.size(); ++s)
      if (!out.mask[s]) out.trial[s] = -1;
    return out;
  }
  if (!(options.from_ms < options.to_ms) || !std::isfinite(options.lag_ms))
    return Error{ErrorCode::invalid_argument,
                 fmt::format("the span is {} to {} ms, {} ms later", options.from_ms, options.to_ms,
                             options.lag_ms),
                 "protocol"};
  // Spikes of a step are where the step is.
  const double offset_ms = options.spikes ? -stepped.step_ms / 2 : target_offset_ms;
  Aligner aligner(stepped, recording, offset_ms, !options.spikes);
  bool aligned = false;
  for (std::size_t t = 0; t < recording.trials.size(); ++t) {
    const Trial& trial = recording.trials[t];
    if (!split_wanted(splits, trial.split)) continue;
    const auto column = trial.columns.find(options.align);
    if (column == trial.columns.end() || !std::isfinite(column->second)) continue;
    aligned = true;
    const double onset = column->second;
    if (options.protocol == Protocol::onset) {
      aligner.claim(static_cast<std::int64_t>(std::floor(aligner.place(onset) + 0.5)), t);
      continue;
    }
    const double shift = options.spikes ? 0 : options.lag_ms;
    const double first = aligner.place(onset + (options.from_ms + shift) * 1e-3);
    const double last = aligner.place(onset + (options.to_ms + shift) * 1e-3);
    for (auto s = static_cast<std::int64_t>(std::ceil(std::max(-1.0, first) - kEdge));
         static_cast<double>(s) < std::min(last, static_cast<double>(stepped.steps())) - kEdge; ++s)
      aligner.claim(s, t);
  }
  if (!aligned)
    return Error{
        ErrorCode::not_found,
        fmt::format("{}: no '{}' trial has a finite '{}'", recording.path, splits, options.align),
        "align"};
  return std::move(aligner.out);
}

}  // namespace cortex
