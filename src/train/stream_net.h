#pragma once

#include "train/network.h"

namespace cortex::train {

/// Which inputs a network is given.
struct StreamInputs {
  bool counts = true;  ///< the additive path: counts of each unit in the step
  bool events = true;  ///< cross-attention to the events of the receptive steps
};

/// Spikes of each unit in each step, [rows, units], of the type and on the device of `like`.
torch::Tensor count_matrix(const CropBatch& batch, std::int64_t units, const torch::Tensor& like);

/// The stream decoder over crops, fast: cross-attention scores are a table over (offset, unit,
/// value), keys and values of all tokens are projected once a call, and self-attention runs in
/// blocks of one window so that its cost grows with the length and not its square.
class StreamNet final : public Network {
 public:
  StreamNet(const ModelConfig& config, const Parameters& params, StreamInputs inputs = {});

  torch::Tensor forward(const CropBatch& batch) const override;
  /// What the first block gets; each block; the head.
  int stages() const override { return config_.layers + 2; }
  int stage_of(const std::string& tensor) const override;
  torch::Tensor run_stage(int stage, const torch::Tensor& before,
                          const CropBatch& batch) const override;
  std::int64_t context_steps() const override;
  std::int64_t warmup_steps() const override { return config_.window_steps; }

  /// What the first block gets, [crops * steps, R, D].
  torch::Tensor embed(const CropBatch& batch) const;
  /// What the head reads, [crops, steps, R * D], of the last steps of each crop: those before the
  /// first that is scored may be missing.
  torch::Tensor states(const CropBatch& batch) const;

 private:
  torch::Tensor run_block(int block, const torch::Tensor& z, const CropBatch& batch) const;
  torch::Tensor normalised(const torch::Tensor& z, const CropBatch& batch) const;
  torch::Tensor answer(const torch::Tensor& z, const CropBatch& batch) const;
  /// Steps at the start of every crop whose answers nobody needs.
  std::int64_t skipped(const CropBatch& batch) const;
  torch::Tensor cross_attend(const CropBatch& batch) const;
  torch::Tensor attend(const torch::Tensor& queries, const torch::Tensor& keys,
                       const torch::Tensor& values, std::int64_t steps) const;

  ModelConfig config_;
  const Parameters& params_;
  StreamInputs inputs_;
};

/// The same function written step by step as the definition reads, in absolute time from
/// `first_step`, for one crop: the oracle of StreamNet. [steps, outputs]
torch::Tensor plain_stream_forward(const ModelConfig& config, const Parameters& params,
                                   const CropBatch& batch, std::int64_t first_step);

/// Events that each step sees, as pairs, for `config`.
struct PairLists {
  std::vector<std::int64_t> indptr, step, slot, token;
};
PairLists make_pairs(const ModelConfig& config, const CropBatch& batch);

}  // namespace cortex::train
