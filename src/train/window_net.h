#pragma once

#include "train/network.h"

namespace cortex::train {

/// The window decoder as a causal one: the answer of a step is that of the window of the last
/// `window_bins` bins, which ends with the step. Windows are padded to the longest of the batch.
class WindowNet final : public Network {
 public:
  /// `step_ms` is how often windows end: a whole multiple of the config's bin_ms.
  WindowNet(const ModelConfig& config, const Parameters& params, double step_ms);

  torch::Tensor forward(const CropBatch& batch) const override;
  /// Latents with the events they attend to; each block; the head.
  int stages() const override { return config_.layers + 2; }
  int stage_of(const std::string& tensor) const override;
  torch::Tensor run_stage(int stage, const torch::Tensor& before,
                          const CropBatch& batch) const override;
  std::int64_t context_steps() const override;
  std::int64_t warmup_steps() const override { return context_steps(); }

 private:
  struct Windows {
    torch::Tensor unit, bin, value;  ///< [windows, events] int64
    torch::Tensor absent;            ///< [windows, events] bool, true in the padding
  };
  Windows gather(const CropBatch& batch, const std::vector<std::int64_t>& rows) const;
  /// [windows, latents, dim], as is what blocks take and give.
  torch::Tensor encode(const Windows& windows) const;
  torch::Tensor run_block(int block, const torch::Tensor& z) const;
  torch::Tensor answer(const torch::Tensor& z) const;  ///< [windows, outputs]
  torch::Tensor norm(const torch::Tensor& x, const std::string& name) const;
  torch::Tensor heads(const torch::Tensor& x) const;
  torch::Tensor join(const torch::Tensor& x) const;

  ModelConfig config_;
  const Parameters& params_;
  std::int64_t window_bins_ = 0;
  std::int64_t bins_per_step_ = 1;
};

}  // namespace cortex::train
