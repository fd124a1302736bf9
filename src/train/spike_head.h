#pragma once

#include "model/weights.h"
#include "train/network.h"
#include "train/stream_net.h"
#include "train/trainer.h"

/// Self-supervised learning of a stream decoder: the spikes of some units and bins are hidden from
/// it, and a head asks what they were, a query a unit and bin. For the state h of a step (the
/// normalised latents that the velocity head reads),
///
///     f = GELU(W h)                               `spikes.proj`  W [D, R·D]
///     log λ(u, b) = (Q_u + B_b) · f / √D + c_u    `spikes.unit`  Q [units, D]
///                                                 `spikes.bin`   B [bins of a step, D]
///                                                 `spikes.bias`  c [units]
///
/// is the logarithm of the spikes expected of unit u in bin b of the step. The engine serves no
/// such head: a pretrained file, which holds `cortex.pretrained` instead of `cortex.config` and no
/// velocity head, is a model to start training from.
namespace cortex::train {

std::vector<TensorSpec> spike_head_specs(const ModelConfig& config);

/// Tensors of the stream decoder `config` that come before its velocity head, and the spike head.
std::vector<TensorSpec> pretrained_specs(const ModelConfig& config);

/// Random weights, a function of `seed`; c is each unit's mean rate.
std::map<std::string, Tensor> initial_spike_head(const ModelConfig& config, std::uint64_t seed);

/// Answers with log λ [crops, steps, units · bins of a step], unit-major, instead of behaviour.
class SpikeNet final : public Network {
 public:
  SpikeNet(const ModelConfig& config, const Parameters& params);

  torch::Tensor forward(const CropBatch& batch) const override;
  std::int64_t context_steps() const override { return stream_.context_steps(); }
  std::int64_t warmup_steps() const override { return stream_.warmup_steps(); }

 private:
  ModelConfig config_;
  const Parameters& params_;
  StreamNet stream_;
};

/// Sum of λ - n log λ over the cells that the batch asks for. `log_rates` as SpikeNet answers.
torch::Tensor poisson_loss(const torch::Tensor& log_rates, const CropBatch& batch);

/// How well `network` (a SpikeNet) predicts the units where `hidden` [units] is 1, whose spikes it
/// does not get, at the scored steps of a timeline, causally: see data/bits_per_spike.h.
struct CoSmoothing {
  double bits_per_spike = 0;
  std::int64_t spikes = 0;
  std::int64_t bins = 0;  ///< of all hidden units
};
CoSmoothing co_smoothing(const Network& network, const Timeline& timeline,
                         const std::vector<std::uint8_t>& hidden);

/// evaluate() of a pretrained file: `co_bps` of the units that the recordings hold out.
Result<EvaluateReport> evaluate_spikes(const EvaluateOptions& options,
                                       const std::vector<Recording>& recordings);

Result<void> save_pretrained(const std::string& path, const ModelConfig& config,
                             const std::map<std::string, Tensor>& tensors);
bool is_pretrained_file(const std::string& path);
/// Checked as any model is: corrupt_data names a missing or misshapen tensor.
Result<ModelFile> load_pretrained(const std::string& path);

}  // namespace cortex::train
