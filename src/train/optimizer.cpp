#include "train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace cortex::train {
namespace {
constexpr double kFloor = 0.01;
}

double learning_rate(double peak, std::int64_t iteration, std::int64_t warmup, double fraction) {
  const double ramp = std::min(1.0, static_cast<double>(iteration + 1) /
                                        static_cast<double>(std::max<std::int64_t>(1, warmup)));
  const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * std::clamp(fraction, 0.0, 1.0)));
  return peak * ramp * (kFloor + (1 - kFloor) * cosine);
}

OptimizerState::OptimizerState(const torch::Tensor& parameters)
    : first(torch::zeros_like(parameters)),
      second(torch::zeros_like(parameters)),
      average(parameters.detach().clone()) {}

void AdamW::step(torch::Tensor& parameters, const torch::Tensor& gradient, double norm,
                 const torch::Tensor& decay_mask, double rate, OptimizerState& state) const {
  const torch::NoGradGuard no_grad;
  ++state.steps;
  // A non-finite gradient would poison the moments for good.
  if (!std::isfinite(norm)) return;
  const torch::Tensor g = norm > clip ? gradient * (clip / norm) : gradient;
  const double n = static_cast<double>(state.steps);
  state.first.mul_(beta1).add_(g, 1 - beta1);
  state.second.mul_(beta2).addcmul_(g, g, 1 - beta2);
  const torch::Tensor root =
      state.second.sqrt().mul_(1 / std::sqrt(1 - std::pow(beta2, n))).add_(eps);
  parameters.addcmul_(parameters, decay_mask, -rate * weight_decay);
  parameters.addcdiv_(state.first, root, -rate / (1 - std::pow(beta1, n)));
  const double keep = std::min(ema, (1 + n) / (10 + n));
  // In this form a parameter that never moves has itself for its average, to the bit.
  state.average.add_(parameters - state.average, 1 - keep);
}

}  // namespace cortex::train
