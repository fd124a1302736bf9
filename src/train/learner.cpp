#include "train/learner.h"

#include <algorithm>

#include "train/baseline_nets.h"
#include "train/ops.h"

namespace cortex::train {
namespace {

class WholeLearner final : public Learner {
 public:
  WholeLearner(const ModelConfig& config, double step_ms, torch::Device device, torch::Dtype dtype,
               const std::vector<std::string>& learned)
      : params_(parameter_specs(config), device, dtype),
        network_(make_network(config, params_, step_ms)),
        decay_mask_(params_.decay_mask()) {
    if (learned.empty()) return;
    learned_ = params_.mask_of(learned);
    decay_mask_.mul_(learned_);
  }

  torch::Tensor& flat() override { return params_.flat(); }
  torch::Tensor& grad() override { return params_.grad(); }
  const torch::Tensor& decay_mask() const override { return decay_mask_; }
  torch::Device device() const override { return params_.device(); }
  std::int64_t count() const override { return params_.count(); }
  void load(const std::map<std::string, Tensor>& tensors) override { params_.load(tensors); }
  std::map<std::string, Tensor> save(const torch::Tensor& flat) override {
    return params_.save(flat);
  }

  double learn(const std::vector<CropBatch>& parts, const torch::Tensor& mean,
               const torch::Tensor& std, bool bf16) override {
    std::int64_t scored = 0;
    for (const CropBatch& part : parts) scored += part.scored;
    const double values =
        static_cast<double>(std::max<std::int64_t>(1, scored)) * static_cast<double>(mean.size(0));
    params_.grad().zero_();
    double sum = 0;
    for (const CropBatch& part : parts) {
      const Bf16Products products(bf16);
      const torch::Tensor loss = squared_error(network_->forward(part), part, mean, std) / values;
      loss.backward();
      sum += loss.item<double>();
    }
    if (learned_.defined()) params_.grad().mul_(learned_);
    return sum;
  }
  double gradient_norm() override { return params_.grad().norm().item<double>(); }
  const Network& network() const override { return *network_; }

 private:
  ParameterSet params_;
  std::unique_ptr<Network> network_;
  torch::Tensor decay_mask_;
  torch::Tensor learned_;  // 1 where there is something to learn; undefined: everywhere
};

}  // namespace

std::unique_ptr<Learner> make_learner(const ModelConfig& config, double step_ms,
                                      torch::Device device, torch::Dtype dtype,
                                      const std::vector<std::string>& learned) {
  return std::make_unique<WholeLearner>(config, step_ms, device, dtype, learned);
}

}  // namespace cortex::train
