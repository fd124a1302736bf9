#include "data/bits_per_spike.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>

namespace cortex {

void BitsPerSpike::add(std::size_t unit, double rate, double count) {
  Sums& sums = units_.at(unit);
  const double expected = std::max(rate, 1e-9);
  ++sums.bins;
  sums.spikes += count;
  sums.likelihood += count * std::log(expected) - expected;
}

double BitsPerSpike::score() const {
  double gain = 0;
  double spikes = 0;
  for (const Sums& s : units_) {
    spikes += s.spikes;
    gain += s.likelihood;
    if (s.spikes > 0)
      gain -= s.spikes * std::log(s.spikes / static_cast<double>(s.bins)) - s.spikes;
  }
  if (spikes == 0) return std::numeric_limits<double>::quiet_NaN();
  return gain / (spikes * std::numbers::ln2);
}

std::int64_t BitsPerSpike::spikes() const {
  double sum = 0;
  for (const Sums& s : units_) sum += s.spikes;
  return std::llround(sum);
}

std::int64_t BitsPerSpike::bins() const {
  std::int64_t sum = 0;
  for (const Sums& s : units_) sum += s.bins;
  return sum;
}

}  // namespace cortex
