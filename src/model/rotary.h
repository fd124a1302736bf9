#pragma once

#include <cstdint>
#include <vector>

namespace cortex {

/// Rotary position by time: pairs (i, i + head_dim/2) turn once a period.
class Rotary {
 public:
  Rotary() = default;
  /// head_dim/2 periods log-spaced over [min_ms, max_ms], ends included.
  Rotary(int head_dim, double min_ms, double max_ms);

  int pairs() const { return static_cast<int>(periods_ms_.size()); }
  const std::vector<double>& periods_ms() const { return periods_ms_; }
  /// cos then sin of 2 pi t / period, `pairs()` of each. t is reduced modulo each period exactly
  /// before it is multiplied, so bin 10^9 is as good as bin 0.
  void phases(double t_ms, float* cosines, float* sines) const;

 private:
  std::vector<double> periods_ms_;
};

}  // namespace cortex
