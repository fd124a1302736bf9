#include <algorithm>
#include <cmath>

#include "train/baseline_nets.h"
#include "train/learner.h"
#include "train/ops.h"

namespace cortex::train {
namespace {

using torch::Tensor;

/// Where the network finds the tensors of the stages that are gathered.
class GatheredStages final : public Parameters {
 public:
  const Tensor& at(const std::string& name) const override {
    for (const auto& [stage, params] : held_)
      if (params->has(name)) return params->at(name);
    throw Exception{{ErrorCode::internal, "'" + name + "' is not gathered", name}};
  }
  torch::Device device() const override { return torch::kCPU; }

  std::map<int, std::unique_ptr<ParameterSet>>& held() { return held_; }

 private:
  std::map<int, std::unique_ptr<ParameterSet>> held_;
};

struct Stage {
  std::vector<TensorSpec> specs;
  std::int64_t length = 0;  // of its flat vector, without what makes it divide
  std::int64_t offset = 0;  // of this rank's part in the rank's vectors
  std::int64_t part = 0;
};

class ShardedLearner;

/// Answers stage by stage with nothing but the present stage gathered.
class ShardedNetwork final : public Network {
 public:
  ShardedNetwork(ShardedLearner& owner, const Network& plain) : owner_(owner), plain_(plain) {}
  Tensor forward(const CropBatch& batch) const override;
  std::int64_t context_steps() const override { return plain_.context_steps(); }
  bool recurrent() const override { return plain_.recurrent(); }
  std::int64_t warmup_steps() const override { return plain_.warmup_steps(); }

 private:
  ShardedLearner& owner_;
  const Network& plain_;
};

class ShardedLearner final : public Learner {
 public:
  ShardedLearner(const ModelConfig& config, double step_ms, torch::Dtype dtype, ProcessGroup& group)
      : group_(group),
        dtype_(dtype),
        plain_(make_network(config, gathered_, step_ms)),
        network_(*this, *plain_) {
    stages_.resize(static_cast<std::size_t>(plain_->stages()));
    for (const TensorSpec& spec : parameter_specs(config))
      stages_[static_cast<std::size_t>(plain_->stage_of(spec.name))].specs.push_back(spec);
    std::int64_t total = 0;
    std::vector<Tensor> masks;
    for (Stage& stage : stages_) {
      const ParameterSet whole(stage.specs, torch::kCPU, dtype, group.ranks());
      stage.length = ParameterSet(stage.specs, torch::kCPU, dtype).flat().size(0);
      stage.part = whole.decay_mask().size(0) / group.ranks();
      stage.offset = total;
      total += stage.part;
      count_ += whole.count();
      masks.push_back(whole.decay_mask().narrow(0, group.rank() * stage.part, stage.part).clone());
    }
    flat_ = torch::zeros({total}, dtype);
    grad_ = torch::zeros({total}, dtype);
    decay_mask_ = torch::cat(masks);
  }

  Tensor& flat() override { return flat_; }
  Tensor& grad() override { return grad_; }
  const Tensor& decay_mask() const override { return decay_mask_; }
  torch::Device device() const override { return torch::kCPU; }
  std::int64_t count() const override { return count_; }
  int rank() const override { return group_.rank(); }
  int ranks() const override { return group_.ranks(); }

  void load(const std::map<std::string, cortex::Tensor>& tensors) override {
    const torch::NoGradGuard no_grad;
    for (const Stage& stage : stages_) {
      ParameterSet whole(stage.specs, torch::kCPU, dtype_, group_.ranks());
      whole.load(tensors);
      flat_.narrow(0, stage.offset, stage.part)
          .copy_(whole.flat().narrow(0, group_.rank() * stage.part, stage.part));
    }
  }

  std::map<std::string, cortex::Tensor> save(const Tensor& flat) override {
    std::map<std::string, cortex::Tensor> out;
    for (const Stage& stage : stages_) {
      ParameterSet whole(stage.specs, torch::kCPU, dtype_, group_.ranks());
      group_.all_gather(whole.flat(), flat.narrow(0, stage.offset, stage.part))->wait();
      if (group_.rank() == 0) out.merge(whole.save(whole.flat()));
    }
    return out;
  }

  std::vector<std::int64_t> stage_lengths() const override {
    std::vector<std::int64_t> out;
    for (const Stage& stage : stages_) out.push_back(stage.length);
    return out;
  }

  double learn(const std::vector<CropBatch>& parts, const Tensor& mean, const Tensor& std,
               bool bf16) override {
    double scored = 0;
    for (const CropBatch& part : parts) scored += static_cast<double>(part.scored);
    const double values = std::max(1.0, group_.sum(scored)) * static_cast<double>(mean.size(0));
    const Bf16Products products(bf16);
    grad_.zero_();
    double sum = 0;
    for (const CropBatch& part : parts) sum += learn_part(part, mean, std, values);
    return group_.sum(sum);
  }

  double gradient_norm() override {
    return std::sqrt(group_.sum(grad_.pow(2).sum().item<double>()));
  }
  const Network& network() const override { return network_; }

  int last_stage() const { return static_cast<int>(stages_.size()) - 1; }

  /// Begins to gather a stage's parameters; one that is under way or here is left alone.
  void prefetch(int index) {
    if (index < 0 || index > last_stage() || gathered_.held().contains(index)) return;
    const torch::NoGradGuard no_grad;
    const Stage& stage = stages_[static_cast<std::size_t>(index)];
    auto whole = std::make_unique<ParameterSet>(stage.specs, torch::kCPU, dtype_, group_.ranks());
    pending_[index] = group_.all_gather(whole->flat(), flat_.narrow(0, stage.offset, stage.part));
    gathered_.held()[index] = std::move(whole);
  }
  ParameterSet& gather(int index) {
    prefetch(index);
    if (const auto found = pending_.find(index); found != pending_.end()) {
      found->second->wait();
      pending_.erase(found);
    }
    return *gathered_.held().at(index);
  }
  void let_go(int index) { gathered_.held().erase(index); }

  /// Runs stages [0, to), each gathered while the one before it computes, and keeps what each was
  /// given if `kept` is there.
  Tensor run_forward(const CropBatch& batch, int to, std::vector<Tensor>* kept) {
    const torch::NoGradGuard no_grad;
    Tensor z;
    for (int i = 0; i < to; ++i) {
      gather(i);
      prefetch(i + 1);
      if (kept != nullptr) kept->push_back(z);
      z = plain_->run_stage(i, z, batch);
      let_go(i);
    }
    return z;
  }

 private:
  double learn_part(const CropBatch& batch, const Tensor& mean, const Tensor& std, double values) {
    std::vector<Tensor> inputs;
    Tensor z = run_forward(batch, last_stage(), &inputs);
    inputs.push_back(z);
    double value = 0;
    Tensor above;  // gradient of what the stage gives
    for (int i = last_stage(); i >= 0; --i) {
      ParameterSet& params = gather(i);
      prefetch(i - 1);
      Tensor before = inputs[static_cast<std::size_t>(i)];
      if (before.defined()) before = before.detach().requires_grad_(true);
      const Tensor after = plain_->run_stage(i, before, batch);
      if (i == last_stage()) {
        const Tensor loss = squared_error(after, batch, mean, std) / values;
        loss.backward();
        value = loss.item<double>();
      } else {
        after.backward(above);
      }
      if (before.defined()) above = before.grad();
      inputs[static_cast<std::size_t>(i)] = Tensor();
      scatter(i, params);
      let_go(i);
    }
    return value;
  }

  void scatter(int index, ParameterSet& params) {
    const torch::NoGradGuard no_grad;
    const Stage& stage = stages_[static_cast<std::size_t>(index)];
    Tensor part = torch::empty({stage.part}, dtype_);
    group_.reduce_scatter(params.grad(), part);
    grad_.narrow(0, stage.offset, stage.part).add_(part);
  }

  ProcessGroup& group_;
  torch::Dtype dtype_;
  GatheredStages gathered_;
  std::map<int, std::unique_ptr<ProcessGroup::Pending>> pending_;
  std::unique_ptr<Network> plain_;
  ShardedNetwork network_;
  std::vector<Stage> stages_;
  std::int64_t count_ = 0;
  Tensor flat_, grad_, decay_mask_;
};

Tensor ShardedNetwork::forward(const CropBatch& batch) const {
  return owner_.run_forward(batch, owner_.last_stage() + 1, nullptr);
}

}  // namespace

std::unique_ptr<Learner> make_sharded_learner(const ModelConfig& config, double step_ms,
                                              torch::Dtype dtype, ProcessGroup& group) {
  return std::make_unique<ShardedLearner>(config, step_ms, dtype, group);
}

}  // namespace cortex::train
