#pragma once

#include <cstdint>
#include <initializer_list>

namespace cortex {

/// SplitMix64 with its own samplers: the standard library's distributions differ between versions,
/// and a seed should mean the same everywhere. A generator is named by a seed and a path
/// of numbers, so that the draws of one unit or trial never shift those of another.
class Random {
 public:
  Random(std::uint64_t seed, std::initializer_list<std::uint64_t> path);

  std::uint64_t next();
  double uniform();                         ///< [0, 1)
  double uniform(double low, double high);  ///< [low, high)
  std::uint64_t below(std::uint64_t n);     ///< 0 .. n-1
  double normal();                          ///< mean 0, variance 1 (Box-Muller)
  double exponential(double rate);
  double lognormal(double log_mean, double log_deviation);

 private:
  std::uint64_t state_;
};

}  // namespace cortex
