#pragma once

#include "train/network.h"

namespace cortex::train {

/// The stream decoder over crops, fast: cross-attention scores are a table over (offset, unit,
/// value), keys and values of all tokens are projected once a call, and self-attention runs in
/// blocks of one window so that its cost grows with the length and not its square.
class StreamNet final : public Network {
 public:
  StreamNet(const ModelConfig& config, const ParameterSet& params);

  torch::Tensor forward(const CropBatch& batch) const override;
  std::int64_t context_steps() const override;
  std::int64_t warmup_steps() const override { return config_.window_steps; }

 private:
  torch::Tensor embed(const CropBatch& batch) const;
  torch::Tensor attend(const torch::Tensor& queries, const torch::Tensor& keys,
                       const torch::Tensor& values, std::int64_t steps) const;

  ModelConfig config_;
  const ParameterSet& params_;
};

/// The same function written step by step as the definition reads, in absolute time from
/// `first_step`, for one crop: the oracle of StreamNet. [steps, outputs]
torch::Tensor plain_stream_forward(const ModelConfig& config, const ParameterSet& params,
                                   const CropBatch& batch, std::int64_t first_step);

/// Events that each step sees, as pairs, for `config`.
struct PairLists {
  std::vector<std::int64_t> indptr, step, slot, token;
};
PairLists make_pairs(const ModelConfig& config, const CropBatch& batch);

}  // namespace cortex::train
