#include "data/intervals.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace cortex {

std::vector<Interval> observed_union(const Recording& recording) {
  std::vector<Interval> all;
  const std::vector<Interval>* previous = nullptr;
  for (const Unit& unit : recording.units) {
    // Units recorded together repeat the same list.
    const auto same = [](const Interval& a, const Interval& b) {
      return a.start_s == b.start_s && a.stop_s == b.stop_s;
    };
    if (previous != nullptr && std::equal(previous->begin(), previous->end(), unit.observed.begin(),
                                          unit.observed.end(), same))
      continue;
    all.insert(all.end(), unit.observed.begin(), unit.observed.end());
    previous = &unit.observed;
  }
  std::sort(all.begin(), all.end(),
            [](const Interval& a, const Interval& b) { return a.start_s < b.start_s; });
  std::vector<Interval> merged;
  for (const Interval& span : all) {
    if (!merged.empty() && span.start_s <= merged.back().stop_s + 1e-9)
      merged.back().stop_s = std::max(merged.back().stop_s, span.stop_s);
    else
      merged.push_back(span);
  }
  return merged;
}

Interval session_span(const Recording& recording, const std::vector<Interval>& observed) {
  if (!observed.empty()) return {observed.front().start_s, observed.back().stop_s};
  Interval span{std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity()};
  const auto include = [&](double start, double stop) {
    span.start_s = std::min(span.start_s, start);
    span.stop_s = std::max(span.stop_s, stop);
  };
  for (const Trial& trial : recording.trials) include(trial.span.start_s, trial.span.stop_s);
  if (!recording.trials.empty()) return span;
  for (const Unit& unit : recording.units)
    if (!unit.spike_times_s.empty()) include(unit.spike_times_s.front(), unit.spike_times_s.back());
  for (const BehaviorSeries& series : recording.behavior)
    if (!series.times_s.empty()) include(series.times_s.front(), series.times_s.back());
  return span;
}

std::vector<Interval> observed_time(const Recording& recording) {
  std::vector<Interval> spans = observed_union(recording);
  const Interval session = session_span(recording, spans);
  if (spans.empty() && std::isfinite(session.start_s)) spans.push_back(session);
  return spans;
}

double total_length(const std::vector<Interval>& spans) {
  double sum = 0;
  for (const Interval& span : spans) sum += span.stop_s - span.start_s;
  return sum;
}

std::int64_t count_within(const std::vector<double>& spikes, const Interval& span) {
  return std::lower_bound(spikes.begin(), spikes.end(), span.stop_s - kTimeEdge) -
         std::lower_bound(spikes.begin(), spikes.end(), span.start_s - kTimeEdge);
}

double rate_within(const std::vector<double>& spikes, const std::vector<Interval>& spans) {
  std::int64_t count = 0;
  for (const Interval& span : spans) count += count_within(spikes, span);
  const double length = total_length(spans);
  return length > 0 ? static_cast<double>(count) / length : 0;
}

std::vector<Interval> slice(const std::vector<Interval>& spans, double from, double to) {
  std::vector<Interval> part;
  double before = 0;
  for (const Interval& span : spans) {
    const double length = span.stop_s - span.start_s;
    const double first = std::max(from - before, 0.0);
    const double last = std::min(to - before, length);
    if (last > first) part.push_back({span.start_s + first, span.start_s + last});
    before += length;
  }
  return part;
}

double median_period(const std::vector<double>& times) {
  if (times.size() < 2) return 0;
  std::vector<double> periods;
  periods.reserve(times.size() - 1);
  for (std::size_t i = 1; i < times.size(); ++i) periods.push_back(times[i] - times[i - 1]);
  const auto middle = periods.begin() + static_cast<std::ptrdiff_t>(periods.size() / 2);
  std::nth_element(periods.begin(), middle, periods.end());
  return *middle;
}

}  // namespace cortex
