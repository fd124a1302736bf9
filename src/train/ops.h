#pragma once

#include <torch/torch.h>

/// Differentiable operations that LibTorch lacks or composes slowly. On a CPU in float32 or float64
/// they run loops of their own whose reduction order is a function of the shapes alone, so a run's
/// bits do not depend on timing; elsewhere they are composed of LibTorch's.
namespace cortex::train {

/// While one lives and `on`, project() and product() below multiply in bfloat16 on this thread.
class Bf16Products {
 public:
  explicit Bf16Products(bool on);
  ~Bf16Products();
  Bf16Products(const Bf16Products&) = delete;
  Bf16Products& operator=(const Bf16Products&) = delete;

 private:
  bool before_;
};

/// x W^T (+ bias) and a b, results in the type of x and a.
torch::Tensor project(const torch::Tensor& x, const torch::Tensor& weight,
                      const torch::Tensor& bias = {});
torch::Tensor product(const torch::Tensor& a, const torch::Tensor& b);

/// x / rms(x) * gain over the last dimension, eps 1e-6. x [.., D], gain [D].
torch::Tensor rms_norm(const torch::Tensor& x, const torch::Tensor& gain);

/// Turns the pairs (i, i + head_dim/2). x [N, T, G, head_dim]; cosines, sines [T, head_dim/2].
torch::Tensor rotate(const torch::Tensor& x, const torch::Tensor& cosines,
                     const torch::Tensor& sines);

/// Which events each step sees, by step. `slot` indexes the score table, `token` the value table.
struct EventPairs {
  torch::Tensor indptr;  ///< [steps + 1] int64, host
  torch::Tensor step;    ///< [pairs] int64
  torch::Tensor slot;    ///< [pairs] int64
  torch::Tensor token;   ///< [pairs] int64
};

/// Softmax attention of every (step, query row, head) over its events and one null key.
/// scores [slots, R*H] and null_scores [R*H] are already scaled; values [tokens, H*head_dim],
/// null_value [H*head_dim]. Returns [steps, R, H*head_dim].
torch::Tensor event_attention(const torch::Tensor& scores, const torch::Tensor& null_scores,
                              const torch::Tensor& values, const torch::Tensor& null_value,
                              const EventPairs& pairs, std::int64_t heads);

/// The same from LibTorch's scatter operations, for devices without the loops above.
torch::Tensor event_attention_composed(const torch::Tensor& scores,
                                       const torch::Tensor& null_scores,
                                       const torch::Tensor& values, const torch::Tensor& null_value,
                                       const EventPairs& pairs, std::int64_t heads);

}  // namespace cortex::train
