#include "model/rotary.h"

#include <cmath>
#include <numbers>

namespace cortex {

Rotary::Rotary(int head_dim, double min_ms, double max_ms) {
  const int n = head_dim / 2;
  for (int i = 0; i < n; ++i) {
    const double fraction = n == 1 ? 0.0 : static_cast<double>(i) / (n - 1);
    periods_ms_.push_back(min_ms * std::pow(max_ms / min_ms, fraction));
  }
}

void Rotary::phases(double t_ms, float* cosines, float* sines) const {
  for (std::size_t i = 0; i < periods_ms_.size(); ++i) {
    const double period = periods_ms_[i];
    const double angle = 2 * std::numbers::pi * (std::fmod(t_ms, period) / period);
    cosines[i] = static_cast<float>(std::cos(angle));
    sines[i] = static_cast<float>(std::sin(angle));
  }
}

}  // namespace cortex
