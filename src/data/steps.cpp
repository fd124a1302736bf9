#include "data/steps.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <unordered_map>
#include <utility>

#include "data/intervals.h"

namespace cortex {
namespace {

constexpr std::int64_t kMaxSteps = 50'000'000;

// Times are decimal fractions that doubles miss by an ulp: what lies within a millionth of a bin
// before an edge is at the edge.
constexpr double kEdge = 1e-6;

std::int64_t floor_edge(double x) { return static_cast<std::int64_t>(std::floor(x + kEdge)); }
std::int64_t ceil_edge(double x) { return static_cast<std::int64_t>(std::ceil(x - kEdge)); }

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Error bad(const std::string& field, const std::string& what) {
  return {ErrorCode::invalid_argument, what, field};
}

Result<void> check_options(const StepOptions& options) {
  if (!std::isfinite(options.bin_ms) || options.bin_ms <= 0)
    return bad("bin_ms", fmt::format("bin_ms is {}, not a positive time", options.bin_ms));
  if (!std::isfinite(options.step_ms) || options.step_ms <= 0)
    return bad("step_ms", fmt::format("step_ms is {}, not a positive time", options.step_ms));
  const double ratio = options.step_ms / options.bin_ms;
  if (ratio > 1e6 || std::round(ratio) < 1 || std::abs(ratio - std::round(ratio)) > 1e-9 * ratio)
    return bad("step_ms", fmt::format("step_ms {} is not a whole multiple of bin_ms {}",
                                      options.step_ms, options.bin_ms));
  if (!std::isfinite(options.target_offset_ms))
    return bad("target_offset_ms", fmt::format("target_offset_ms is {}", options.target_offset_ms));
  return {};
}

/// For each wanted unit its spikes, or nullptr where the file lacks it.
Result<std::vector<const Unit*>> match_units(const Recording& recording,
                                             const StepOptions& options) {
  std::vector<const Unit*> matched;
  if (options.unit_ids.empty()) {
    for (const Unit& unit : recording.units) matched.push_back(&unit);
    return matched;
  }
  std::unordered_map<std::string, const Unit*> by_id;
  for (const Unit& unit : recording.units) by_id.emplace(unit.id, &unit);
  std::set<std::string> seen;
  std::vector<std::string> missing;
  for (const std::string& id : options.unit_ids) {
    if (!seen.insert(id).second)
      return bad("unit_ids", fmt::format("unit '{}' is wanted twice", id));
    const auto found = by_id.find(id);
    matched.push_back(found == by_id.end() ? nullptr : found->second);
    if (found == by_id.end()) missing.push_back(id);
  }
  if (!missing.empty() && !options.allow_missing_units)
    return Error{ErrorCode::not_found,
                 fmt::format("{}: {} of {} wanted units are not in the file: {}", recording.path,
                             missing.size(), options.unit_ids.size(), fmt::join(missing, ", ")),
                 "unit_ids"};
  return matched;
}

void fill_events(const std::vector<const Unit*>& units, std::int64_t bins_per_step,
                 std::int64_t steps, SteppedRecording& out) {
  const double bin_s = out.bin_ms * 1e-3;
  const std::int64_t bins = steps * bins_per_step;
  for (std::size_t u = 0; u < units.size(); ++u) {
    if (units[u] == nullptr) continue;
    std::int64_t last_bin = -1;
    for (const double time : units[u]->spike_times_s) {
      const double position = (time - out.origin_s) / bin_s;
      if (position < -1 || position > static_cast<double>(bins) + 1) continue;
      const std::int64_t bin = floor_edge(position);
      if (bin < 0 || bin >= bins) continue;
      if (bin == last_bin) {
        ++out.events.back().value;
      } else {
        out.events.push_back({static_cast<std::int32_t>(u), 1, bin});
        last_bin = bin;
      }
    }
  }
  std::sort(out.events.begin(), out.events.end(), [](const Event& a, const Event& b) {
    return a.bin != b.bin ? a.bin < b.bin : a.unit < b.unit;
  });
  out.indptr.assign(static_cast<std::size_t>(steps) + 1, 0);
  for (const Event& event : out.events)
    ++out.indptr[static_cast<std::size_t>(event.bin / bins_per_step) + 1];
  for (std::size_t s = 0; s < static_cast<std::size_t>(steps); ++s)
    out.indptr[s + 1] += out.indptr[s];
}

/// Steps wholly inside `span`, as [first, last).
std::pair<std::int64_t, std::int64_t> steps_within(const Interval& span, double origin_s,
                                                   double step_s, std::int64_t steps) {
  const double limit = static_cast<double>(steps) + 1;
  const double first = std::clamp((span.start_s - origin_s) / step_s, -1.0, limit);
  const double last = std::clamp((span.stop_s - origin_s) / step_s, -1.0, limit);
  return {std::clamp<std::int64_t>(ceil_edge(first), 0, steps),
          std::clamp<std::int64_t>(floor_edge(last), 0, steps)};
}

void fill_target(const BehaviorSeries& series, double offset_ms, SteppedRecording& out) {
  const double step_s = out.step_ms * 1e-3;
  const double widest = std::max(3 * median_period(series.times_s), step_s) * (1 + 1e-9);
  const double snap = kEdge * step_s;
  const auto& times = series.times_s;
  const std::size_t dims = series.dims;
  const auto steps = static_cast<std::size_t>(out.steps());
  out.target.assign(steps * dims, kNaN);
  std::size_t after = 0;  // first sample later than the target time
  for (std::size_t s = 0; s < steps; ++s) {
    const double time = out.origin_s + static_cast<double>(s + 1) * step_s + offset_ms * 1e-3;
    while (after < times.size() && times[after] <= time) ++after;
    float* row = out.target.data() + s * dims;
    const auto copy = [&](std::size_t sample) {
      std::copy_n(series.values.begin() + static_cast<std::ptrdiff_t>(sample * dims), dims, row);
    };
    if (after > 0 && time - times[after - 1] <= snap) {
      copy(after - 1);
    } else if (after < times.size() && times[after] - time <= snap) {
      copy(after);
    } else if (after > 0 && after < times.size() && times[after] - times[after - 1] <= widest) {
      const double weight = (time - times[after - 1]) / (times[after] - times[after - 1]);
      for (std::size_t d = 0; d < dims; ++d) {
        const double a = series.values[(after - 1) * dims + d];
        const double b = series.values[after * dims + d];
        row[d] = static_cast<float>(a + weight * (b - a));
      }
    }
  }
}

std::vector<std::string> name_outputs(const std::string& series, std::size_t dims) {
  if (dims == 1) return {series};
  static constexpr const char* kAxes[] = {"x", "y", "z"};
  std::vector<std::string> names;
  for (std::size_t d = 0; d < dims; ++d)
    names.push_back(dims <= 3 ? series + "_" + kAxes[d] : fmt::format("{}_{}", series, d));
  return names;
}

}  // namespace

Result<SteppedRecording> step_recording(const Recording& recording, const StepOptions& options) {
  if (auto ok = check_options(options); !ok) return ok.error();
  auto units = match_units(recording, options);
  if (!units) return units.error();
  const BehaviorSeries* series =
      recording.target.empty()
          ? recording.find_behavior(options.target.empty() ? "hand_vel" : options.target)
          : recording.find_path(recording.target);
  if (series == nullptr && !(options.target.empty() && recording.behavior.empty())) {
    std::vector<std::string> names;
    for (const BehaviorSeries& each : recording.behavior) names.push_back(each.name);
    return Error{ErrorCode::not_found,
                 fmt::format("{}: no behaviour series '{}'; the file has: {}", recording.path,
                             options.target.empty() ? "hand_vel" : options.target,
                             names.empty() ? "none" : fmt::format("{}", fmt::join(names, ", "))),
                 "target"};
  }
  if (series != nullptr && series->values.size() != series->times_s.size() * series->dims)
    return bad("target",
               fmt::format("series '{}' has {} values for {} times of {} dimensions", series->name,
                           series->values.size(), series->times_s.size(), series->dims));

  SteppedRecording out;
  out.bin_ms = options.bin_ms;
  out.step_ms = options.step_ms;
  const double step_s = options.step_ms * 1e-3;
  const auto bins_per_step =
      static_cast<std::int64_t>(std::round(options.step_ms / options.bin_ms));
  const std::vector<Interval> observed = observed_union(recording);
  const Interval span = session_span(recording, observed);
  std::int64_t steps = 0;
  if (std::isfinite(span.start_s) && std::isfinite(span.stop_s)) {
    const double wanted = (span.stop_s - span.start_s) / step_s + 2;
    if (!(wanted <= static_cast<double>(kMaxSteps)) || std::abs(span.start_s / step_s) > 1e15)
      return Error{ErrorCode::too_large,
                   fmt::format("{}: {} s to {} s would be {:.0f} steps of {} ms, over the limit of "
                               "{}",
                               recording.path, span.start_s, span.stop_s, wanted, options.step_ms,
                               kMaxSteps),
                   "step_ms"};
    out.origin_s = static_cast<double>(floor_edge(span.start_s / step_s)) * step_s;
    steps = std::max<std::int64_t>(0, ceil_edge((span.stop_s - out.origin_s) / step_s));
  }
  for (std::size_t u = 0; u < units->size(); ++u)
    out.unit_ids.push_back(options.unit_ids.empty() ? recording.units[u].id : options.unit_ids[u]);
  fill_events(*units, bins_per_step, steps, out);

  out.observed.assign(static_cast<std::size_t>(steps), observed.empty() ? 1 : 0);
  for (const Interval& each : observed) {
    const auto [first, last] = steps_within(each, out.origin_s, step_s, steps);
    for (std::int64_t s = first; s < last; ++s) out.observed[static_cast<std::size_t>(s)] = 1;
  }
  out.trial.assign(static_cast<std::size_t>(steps), -1);
  for (std::size_t t = recording.trials.size(); t-- > 0;) {
    const auto [first, last] = steps_within(recording.trials[t].span, out.origin_s, step_s, steps);
    for (std::int64_t s = first; s < last; ++s)
      out.trial[static_cast<std::size_t>(s)] = static_cast<std::int32_t>(t);
  }
  if (series != nullptr) {
    out.dims = series->dims;
    out.output_names = name_outputs(series->name, series->dims);
    out.output_unit = series->unit;
    fill_target(*series, options.target_offset_ms, out);
  }
  return out;
}

Result<std::vector<std::uint8_t>> scored_steps(const SteppedRecording& stepped,
                                               const Recording& recording,
                                               const std::string& splits, bool with_target) {
  if (with_target && stepped.dims == 0)
    return bad("target", fmt::format("{}: nothing to score, it has no behaviour", recording.path));
  std::set<std::string> present;
  for (const Trial& trial : recording.trials) present.insert(trial.split);
  std::set<std::string> wanted;
  for (std::size_t at = 0; at <= splits.size();) {
    const std::size_t comma = std::min(splits.find(',', at), splits.size());
    const std::string split = splits.substr(at, comma - at);
    if (split == "all")
      wanted.insert(present.begin(), present.end());
    else if (!split.empty() && present.contains(split))
      wanted.insert(split);
    else
      return bad("splits", fmt::format("{}: no trial is in split '{}'; the file has: {}",
                                       recording.path, split, fmt::join(present, ", ")));
    at = comma + 1;
  }
  std::vector<std::uint8_t> mask(static_cast<std::size_t>(stepped.steps()), 0);
  for (std::size_t s = 0; s < mask.size(); ++s) {
    const std::int32_t trial = stepped.trial[s];
    if (trial < 0 || stepped.observed[s] == 0 ||
        !wanted.contains(recording.trials[static_cast<std::size_t>(trial)].split))
      continue;
    bool finite = true;
    for (std::size_t d = 0; with_target && d < stepped.dims; ++d)
      finite = finite && std::isfinite(stepped.target[s * stepped.dims + d]);
    mask[s] = finite ? 1 : 0;
  }
  return mask;
}

R2 r2_score(std::span<const float> truth, std::span<const float> decoded,
            std::span<const std::uint8_t> mask, std::size_t dims) {
  R2 score;
  score.per_dim.assign(dims, std::numeric_limits<double>::quiet_NaN());
  const std::size_t rows =
      dims == 0 ? 0 : std::min({mask.size(), truth.size() / dims, decoded.size() / dims});
  std::vector<double> mean(dims, 0.0), residual(dims, 0.0), total(dims, 0.0);
  for (std::size_t r = 0; r < rows; ++r) {
    if (mask[r] == 0) continue;
    ++score.rows;
    for (std::size_t d = 0; d < dims; ++d) mean[d] += truth[r * dims + d];
  }
  for (double& m : mean) m /= static_cast<double>(score.rows);
  for (std::size_t r = 0; r < rows; ++r) {
    if (mask[r] == 0) continue;
    for (std::size_t d = 0; d < dims; ++d) {
      const double value = truth[r * dims + d];
      const double error = value - decoded[r * dims + d];
      residual[d] += error * error;
      total[d] += (value - mean[d]) * (value - mean[d]);
    }
  }
  double sum = 0;
  for (std::size_t d = 0; d < dims; ++d) {
    if (total[d] > 0) score.per_dim[d] = 1 - residual[d] / total[d];
    sum += score.per_dim[d];
  }
  score.mean =
      dims == 0 ? std::numeric_limits<double>::quiet_NaN() : sum / static_cast<double>(dims);
  return score;
}

}  // namespace cortex
