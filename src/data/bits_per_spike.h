#pragma once

#include <cstdint>
#include <vector>

namespace cortex {

/// How well rates predict spike counts, in bits a spike above each unit's own mean rate, as the
/// Neural Latents Benchmark defines its co-smoothing score (Pei et al. 2021):
///
///     (LL(rates) - LL(means)) / (number of spikes · ln 2),    LL = Σ n log λ - λ - log n!
///
/// with λ the expected spikes of a bin and each unit's mean taken over the very bins that are
/// scored: rates that are those means score 0.
///
///     BitsPerSpike bits(units);
///     bits.add(unit, rate, count);            // once a unit and bin
///     const double score = bits.score();
class BitsPerSpike {
 public:
  explicit BitsPerSpike(std::size_t units) : units_(units) {}
  /// `rate`: expected spikes in the bin; below 1e-9 it counts as that, as in the benchmark.
  void add(std::size_t unit, double rate, double count);
  /// NaN before the first spike.
  double score() const;
  std::int64_t spikes() const;
  std::int64_t bins() const;  ///< of all units

 private:
  struct Sums {
    std::int64_t bins = 0;
    double spikes = 0;
    double likelihood = 0;  // without log n!, which the difference does not hold
  };
  std::vector<Sums> units_;
};

}  // namespace cortex
