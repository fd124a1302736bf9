#include "data/rate_drift.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "data/intervals.h"

namespace cortex {
namespace {

constexpr int kParts = 20;
constexpr double kFloorHz = 0.5;
constexpr double kChangedLog2 = 1;
constexpr double kChangedZ = 3;

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Standard deviation over the parts, of a rate in spikes/s.
double deviation(const Unit& unit, const std::vector<std::vector<Interval>>& parts,
                 double before_hz) {
  double sum = 0;
  double squares = 0;
  double seconds = 0;
  for (const auto& part : parts) {
    const double rate = rate_within(unit.spike_times_s, part);
    sum += rate;
    squares += rate * rate;
    seconds += total_length(part);
  }
  const double mean = sum / kParts;
  const double variance = std::max(0.0, (squares - kParts * mean * mean) / (kParts - 1));
  const double poisson = std::max({mean, before_hz, 1 / seconds}) / (seconds / kParts);
  return std::sqrt(std::max(variance, poisson));
}

}  // namespace

std::vector<UnitRate> rates_of(const Recording& recording) {
  const std::vector<Interval> observed = observed_time(recording);
  std::vector<UnitRate> out;
  for (const Unit& unit : recording.units)
    out.push_back({unit.id, rate_within(unit.spike_times_s, observed)});
  return out;
}

Result<RateDrift> rate_drift(const std::vector<UnitRate>& before, const Recording& now) {
  const auto bad = [](const std::string& what) {
    return Error{ErrorCode::invalid_argument, what, "drift"};
  };
  if (std::none_of(before.begin(), before.end(),
                   [](const UnitRate& unit) { return unit.rate_hz > 0; }))
    return bad("there are no rates of units to compare with");
  const std::vector<Interval> observed = observed_time(now);
  const double length = total_length(observed);
  if (now.units.empty() || !(length > 0))
    return bad(
        fmt::format("{}: {} units in {} s of observed time", now.path, now.units.size(), length));
  std::vector<std::vector<Interval>> parts;
  parts.reserve(kParts);
  for (int i = 0; i < kParts; ++i)
    parts.push_back(slice(observed, length * i / kParts, length * (i + 1) / kParts));

  std::map<std::string, double> known;
  for (const UnitRate& unit : before) known.emplace(unit.id, unit.rate_hz);
  RateDrift out;
  std::vector<double> ratios, scores;
  std::size_t changed = 0;
  for (const Unit& unit : now.units) {
    auto found = known.find(unit.id);
    if (found == known.end()) found = known.find(session_unit_id(now.session(), unit.id));
    if (found == known.end()) {
      out.fresh.push_back(unit.id);
      continue;
    }
    UnitDrift d{.id = unit.id, .before_hz = found->second};
    known.erase(found);
    d.now_hz = rate_within(unit.spike_times_s, observed);
    d.log2_ratio = std::log2((d.now_hz + kFloorHz) / (d.before_hz + kFloorHz));
    d.z =
        (d.now_hz - d.before_hz) / (deviation(unit, parts, d.before_hz) * std::sqrt(2.0 / kParts));
    d.changed = std::abs(d.log2_ratio) >= kChangedLog2 && std::abs(d.z) >= kChangedZ;
    changed += d.changed;
    ratios.push_back(std::abs(d.log2_ratio));
    scores.push_back(std::abs(d.z));
    out.units.push_back(std::move(d));
  }
  for (const UnitRate& unit : before)
    if (known.contains(unit.id)) out.lost.push_back(unit.id);
  out.median_abs_log2 = median(std::move(ratios));
  out.median_abs_z = median(std::move(scores));
  const std::size_t apart = changed + out.lost.size() + out.fresh.size();
  const std::size_t all = out.units.size() + out.lost.size() + out.fresh.size();
  out.changed_share = static_cast<double>(apart) / static_cast<double>(all);
  out.advised = out.changed_share >= kDriftAdvised;
  return out;
}

}  // namespace cortex
