#include "train/learner.h"

#include <algorithm>

#include "train/baseline_nets.h"
#include "train/ops.h"
#include "train/spike_head.h"

namespace cortex::train {
namespace {

class WholeLearner : public Learner {
 public:
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
    std::int64_t count = 0;
    for (const CropBatch& part : parts) count += values_in(part, mean);
    const auto values = static_cast<double>(std::max<std::int64_t>(1, count));
    params_.grad().zero_();
    double sum = 0;
    for (const CropBatch& part : parts) {
      const Bf16Products products(bf16);
      const torch::Tensor loss = loss_of(part, mean, std) / values;
      loss.backward();
      sum += loss.item<double>();
    }
    if (learned_.defined()) params_.grad().mul_(learned_);
    return sum;
  }
  double gradient_norm() override { return params_.grad().norm().item<double>(); }
  const Network& network() const override { return *network_; }

 protected:
  WholeLearner(const std::vector<TensorSpec>& specs, torch::Device device, torch::Dtype dtype)
      : params_(specs, device, dtype), decay_mask_(params_.decay_mask()) {}

  /// How many values the loss is a sum over.
  virtual std::int64_t values_in(const CropBatch& part, const torch::Tensor& mean) const = 0;
  virtual torch::Tensor loss_of(const CropBatch& part, const torch::Tensor& mean,
                                const torch::Tensor& std) const = 0;

  ParameterSet params_;
  std::unique_ptr<Network> network_;
  torch::Tensor decay_mask_;
  torch::Tensor learned_;  // 1 where there is something to learn; undefined: everywhere
};

class BehaviorLearner final : public WholeLearner {
 public:
  BehaviorLearner(const ModelConfig& config, double step_ms, torch::Device device,
                  torch::Dtype dtype, const std::vector<std::string>& learned)
      : WholeLearner(parameter_specs(config), device, dtype) {
    network_ = make_network(config, params_, step_ms);
    if (learned.empty()) return;
    learned_ = params_.mask_of(learned);
    decay_mask_.mul_(learned_);
  }

 private:
  std::int64_t values_in(const CropBatch& part, const torch::Tensor& mean) const override {
    return part.scored * mean.size(0);
  }
  torch::Tensor loss_of(const CropBatch& part, const torch::Tensor& mean,
                        const torch::Tensor& std) const override {
    return squared_error(network_->forward(part), part, mean, std);
  }
};

class SpikeLearner final : public WholeLearner {
 public:
  SpikeLearner(const ModelConfig& config, torch::Device device, torch::Dtype dtype)
      : WholeLearner(pretrained_specs(config), device, dtype) {
    network_ = std::make_unique<SpikeNet>(config, params_);
  }

 private:
  std::int64_t values_in(const CropBatch& part, const torch::Tensor&) const override {
    return part.asked_cells;
  }
  torch::Tensor loss_of(const CropBatch& part, const torch::Tensor&,
                        const torch::Tensor&) const override {
    return poisson_loss(network_->forward(part), part);
  }
};

}  // namespace

std::unique_ptr<Learner> make_learner(const ModelConfig& config, double step_ms,
                                      torch::Device device, torch::Dtype dtype,
                                      const std::vector<std::string>& learned) {
  return std::make_unique<BehaviorLearner>(config, step_ms, device, dtype, learned);
}

std::unique_ptr<Learner> make_spike_learner(const ModelConfig& config, torch::Device device,
                                            torch::Dtype dtype) {
  return std::make_unique<SpikeLearner>(config, device, dtype);
}

}  // namespace cortex::train
