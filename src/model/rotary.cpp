#include "model/rotary.h"

#include <cmath>

#include "kernels/ops.h"

namespace cortex {

Rotary::Rotary(int head_dim, double min_ms, double max_ms) {
  const int n = head_dim / 2;
  for (int i = 0; i < n; ++i) {
    const double fraction = n == 1 ? 0.0 : static_cast<double>(i) / (n - 1);
    periods_ms_.push_back(min_ms * std::pow(max_ms / min_ms, fraction));
  }
}

void Rotary::phases(double t_ms, float* cosines, float* sines) const {
  time_phases(t_ms, periods_ms_, cosines, sines);
}

}  // namespace cortex
