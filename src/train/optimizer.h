#pragma once

#include <torch/torch.h>

#include <cstdint>

namespace cortex::train {

/// Peak learning rate times a linear warm-up and a cosine from 1 to `kFloor` over `fraction`.
double learning_rate(double peak, std::int64_t iteration, std::int64_t warmup, double fraction);

/// AdamW (https://arxiv.org/abs/1711.05101) and an exponential moving average over flat vectors.
struct OptimizerState {
  torch::Tensor first;    ///< moving mean of the gradient
  torch::Tensor second;   ///< moving mean of its square
  torch::Tensor average;  ///< moving average of the parameters: what is evaluated and exported
  std::int64_t steps = 0;

  explicit OptimizerState(const torch::Tensor& parameters);
};

struct AdamW {
  double beta1 = 0.9;
  double beta2 = 0.98;
  double eps = 1e-8;
  double weight_decay = 0.3;
  double clip = 1.0;   ///< largest norm of the gradient
  double ema = 0.999;  ///< decay of the average; shorter at the start

  /// One update of `parameters` in place. `norm`: of the whole gradient, of which this may be a
  /// part; one that is not finite changes nothing.
  void step(torch::Tensor& parameters, const torch::Tensor& gradient, double norm,
            const torch::Tensor& decay_mask, double rate, OptimizerState& state) const;
};

}  // namespace cortex::train
