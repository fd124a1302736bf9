#pragma once

#include <torch/torch.h>

#include <memory>

#include "train/crops.h"
#include "train/params.h"

namespace cortex::train {

/// A decoder under training: crops of recordings in, one normalised behaviour vector a step out
/// (that is, before `output.std` and `output.mean`).
class Network {
 public:
  virtual ~Network() = default;
  /// [crops, steps, outputs]. Only the steps that the batch scores are sure to be computed; others
  /// may be zero.
  virtual torch::Tensor forward(const CropBatch& batch) const = 0;
  /// Steps before a step that its output depends on.
  virtual std::int64_t context_steps() const = 0;
  /// The parts that run one after the other, each with tensors of its own: stage 0 takes the batch,
  /// every other the result of the one before it, the last one answers as forward() does.
  virtual int stages() const { return 1; }
  virtual int stage_of(const std::string& tensor) const { return 0; }
  virtual torch::Tensor run_stage(int stage, const torch::Tensor& before,
                                  const CropBatch& batch) const {
    return forward(batch);
  }
  /// Whether its output depends on every step before, whatever context_steps() says.
  virtual bool recurrent() const { return false; }
  /// Steps a crop needs before the first one it scores.
  virtual std::int64_t warmup_steps() const = 0;
};

/// Sum over scored steps of the squared difference between answers [crops, steps, outputs] and the
/// targets, normalised by mean and std [outputs].
torch::Tensor squared_error(const torch::Tensor& answers, const CropBatch& batch,
                            const torch::Tensor& mean, const torch::Tensor& std);

/// The network of `config` over `params`, which must outlive it.
/// `step_ms` matters to a window decoder, whose config has none.
std::unique_ptr<Network> make_network(const ModelConfig& config, const Parameters& params,
                                      double step_ms);

}  // namespace cortex::train
