#include "train/network.h"

#include "train/baseline_nets.h"
#include "train/stream_net.h"
#include "train/window_net.h"

namespace cortex::train {

std::unique_ptr<Network> make_network(const ModelConfig& config, const Parameters& params,
                                      double step_ms) {
  if (auto baseline = make_baseline(config, params)) return baseline;
  if (config.kind == ModelKind::stream) return std::make_unique<StreamNet>(config, params);
  return std::make_unique<WindowNet>(config, params, step_ms);
}

torch::Tensor squared_error(const torch::Tensor& answers, const CropBatch& batch,
                            const torch::Tensor& mean, const torch::Tensor& std) {
  const auto dims = mean.size(0);
  const torch::Tensor target = torch::tensor(batch.target)
                                   .view({batch.crops, batch.steps, dims})
                                   .to(mean.device(), mean.scalar_type());
  const std::vector<float> weight(batch.mask.begin(), batch.mask.end());
  const torch::Tensor mask = torch::tensor(weight)
                                 .view({batch.crops, batch.steps, 1})
                                 .to(mean.device(), mean.scalar_type());
  return ((answers - (target - mean) / std) * mask).pow(2).sum();
}

}  // namespace cortex::train
