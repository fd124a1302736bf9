#include "data/statistics.h"

#include <algorithm>
#include <cmath>

#include "data/intervals.h"

namespace cortex {
namespace {

constexpr double kWindow = 0.2;  // seconds
constexpr std::size_t kMinWindows = 100;
constexpr double kMostWindowCounts = 1e8;
constexpr double kMinWindowMean = 0.05;
constexpr double kMinDriftSession = 200;  // seconds
constexpr double kMinDriftObserved = 60;  // seconds

double percentile(const std::vector<double>& sorted, double q) {
  if (sorted.empty()) return 0;
  const double at = q * static_cast<double>(sorted.size() - 1);
  const auto low = static_cast<std::size_t>(at);
  const std::size_t high = std::min(low + 1, sorted.size() - 1);
  return sorted[low] + (at - static_cast<double>(low)) * (sorted[high] - sorted[low]);
}

Spread spread(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return {percentile(values, 0.05), percentile(values, 0.5), percentile(values, 0.95)};
}

double centre(const std::vector<Interval>& spans) {
  double weighted = 0;
  for (const Interval& span : spans)
    weighted += (span.stop_s - span.start_s) * (span.start_s + span.stop_s) / 2;
  return weighted / total_length(spans);
}

std::optional<Spread> fano_factors(const Recording& recording) {
  double count_of_windows = 0;
  for (const Trial& trial : recording.trials)
    count_of_windows += std::max(0.0, (trial.span.stop_s - trial.span.start_s) / kWindow);
  // More than a day of trials of some hundred units is a damaged column, not a recording.
  const double looked_up =
      count_of_windows * std::max(1.0, static_cast<double>(recording.units.size()));
  if (!(looked_up <= kMostWindowCounts)) return std::nullopt;
  std::vector<Interval> windows;
  for (const Trial& trial : recording.trials)
    for (int w = 0; trial.span.start_s + (w + 1) * kWindow <= trial.span.stop_s + kTimeEdge; ++w)
      windows.push_back({trial.span.start_s + w * kWindow, trial.span.start_s + (w + 1) * kWindow});
  if (windows.size() < kMinWindows) return std::nullopt;
  std::vector<double> factors;
  for (const Unit& unit : recording.units) {
    double sum = 0, squares = 0;
    for (const Interval& window : windows) {
      const auto count = static_cast<double>(count_within(unit.spike_times_s, window));
      sum += count;
      squares += count * count;
    }
    const auto n = static_cast<double>(windows.size());
    const double mean = sum / n;
    if (mean >= kMinWindowMean) factors.push_back((squares - n * mean * mean) / (n - 1) / mean);
  }
  if (factors.empty()) return std::nullopt;
  return spread(std::move(factors));
}

std::optional<Spread> drift(const Recording& recording, const std::vector<Interval>& observed) {
  const double length = total_length(observed);
  if (observed.empty() || length < kMinDriftObserved ||
      observed.back().stop_s - observed.front().start_s < kMinDriftSession)
    return std::nullopt;
  const auto first = slice(observed, 0, length / 3);
  const auto last = slice(observed, length * 2 / 3, length);
  const double apart = centre(last) - centre(first);
  std::vector<double> changes;
  for (const Unit& unit : recording.units) {
    const double mean = rate_within(unit.spike_times_s, observed);
    // Below this the change is the noise of a handful of spikes.
    if (mean < 0.5 || !(apart > 0)) continue;
    const double change =
        rate_within(unit.spike_times_s, last) - rate_within(unit.spike_times_s, first);
    changes.push_back(std::abs(change) / mean * 600 / apart);
  }
  if (changes.empty()) return std::nullopt;
  return spread(std::move(changes));
}

double to_mm_per_s(const std::string& unit) {
  if (unit == "mm/s") return 1;
  if (unit == "cm/s") return 10;
  if (unit == "m/s") return 1000;
  return 0;
}

void describe_speed(const Recording& recording, RecordingStatistics& out) {
  const BehaviorSeries* series = recording.find_behavior("hand_vel");
  const double scale = series == nullptr ? 0 : to_mm_per_s(series->unit);
  if (scale == 0) return;
  std::vector<double> speeds;
  for (const Trial& trial : recording.trials) {
    const auto& times = series->times_s;
    auto at = std::lower_bound(times.begin(), times.end(), trial.span.start_s - kTimeEdge);
    for (; at != times.end() && *at < trial.span.stop_s; ++at) {
      const auto row = static_cast<std::size_t>(at - times.begin());
      double square = 0;
      for (std::size_t d = 0; d < series->dims; ++d) {
        const double value = series->values[row * series->dims + d];
        square += value * value;
      }
      if (std::isfinite(square)) speeds.push_back(std::sqrt(square) * scale);
    }
  }
  if (speeds.empty()) return;
  std::sort(speeds.begin(), speeds.end());
  out.speed_p99_mm_s = percentile(speeds, 0.99);
  out.speed_mm_s = spread(std::move(speeds));
}

SeriesStatistics describe_series(const BehaviorSeries& series) {
  SeriesStatistics out;
  out.name = series.name;
  if (series.times_s.empty()) return out;
  out.start_s = series.times_s.front();
  out.stop_s = series.times_s.back();
  const double period = median_period(series.times_s);
  if (period > 0) out.sample_hz = 1 / period;
  for (std::size_t i = 1; i < series.times_s.size(); ++i)
    if (series.times_s[i] - series.times_s[i - 1] > 3 * period) ++out.gaps;
  return out;
}

}  // namespace

RecordingStatistics describe(const Recording& recording) {
  RecordingStatistics out;
  const std::vector<Interval> observed = observed_time(recording);
  if (!observed.empty()) out.session = {observed.front().start_s, observed.back().stop_s};
  out.observed_s = total_length(observed);
  for (std::size_t i = 1; i < observed.size(); ++i) {
    ++out.gaps;
    out.longest_gap_s = std::max(out.longest_gap_s, observed[i].start_s - observed[i - 1].stop_s);
  }
  std::vector<double> rates;
  for (const Unit& unit : recording.units)
    rates.push_back(rate_within(unit.spike_times_s, observed));
  for (const double rate : rates) out.mean_rate_hz += rate / static_cast<double>(rates.size());
  out.rate_hz = spread(std::move(rates));
  out.fano = fano_factors(recording);
  out.drift_per_10min = drift(recording, observed);
  std::vector<double> lengths;
  for (const Trial& trial : recording.trials)
    lengths.push_back(trial.span.stop_s - trial.span.start_s);
  if (!lengths.empty()) out.trial_s = spread(std::move(lengths));
  describe_speed(recording, out);
  for (const BehaviorSeries& series : recording.behavior)
    out.series.push_back(describe_series(series));
  return out;
}

}  // namespace cortex
