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
  /// Steps a crop needs before the first one it scores.
  virtual std::int64_t warmup_steps() const = 0;
};

/// The network of `config` over `params`, which must outlive it.
/// `step_ms` matters to a window decoder, whose config has none.
std::unique_ptr<Network> make_network(const ModelConfig& config, const ParameterSet& params,
                                      double step_ms);

}  // namespace cortex::train
