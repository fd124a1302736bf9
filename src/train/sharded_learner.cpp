#include <algorithm>
#include <cmath>

#include "train/baseline_nets.h"
#include "train/learner.h"
#include "train/ops.h"

namespace cortex::train {
namespace {

using torch::Tensor;

/// Tensors of one stage. Those of other ranks' parts are here while the stage computes.
struct Stage {
  std::unique_ptr<ParameterSet> params;
  std::int64_t length = 0;  // of its flat vector, without what makes it divide
  std::int64_t offset = 0;  // of this rank's part in the rank's vectors
  std::int64_t part = 0;
  bool here = false;  // its parameters
  Tensor whole;       // on its way to become them
  std::unique_ptr<ProcessGroup::Pending> gathering;
};

/// Where the network finds the tensors of all stages.
class StagedParameters final : public Parameters {
 public:
  explicit StagedParameters(torch::Device device) : device_(device) {}
  void add(const ParameterSet* params) { sets_.push_back(params); }
  const Tensor& at(const std::string& name) const override {
    for (const ParameterSet* params : sets_)
      if (params->has(name)) return params->at(name);
    throw Exception{{ErrorCode::internal, "no stage has '" + name + "'", name}};
  }
  torch::Device device() const override { return device_; }

 private:
  torch::Device device_;
  std::vector<const ParameterSet*> sets_;
};

class ShardedLearner;

/// Answers stage by stage with nothing but the present stage and the next gathered.
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
        options_(torch::TensorOptions().dtype(dtype).device(group.device())),
        staged_(group.device()),
        plain_(make_network(config, staged_, step_ms)),
        network_(*this, *plain_) {
    std::vector<std::vector<TensorSpec>> specs(static_cast<std::size_t>(plain_->stages()));
    for (const TensorSpec& spec : parameter_specs(config))
      specs[static_cast<std::size_t>(plain_->stage_of(spec.name))].push_back(spec);
    std::int64_t total = 0;
    std::vector<Tensor> masks;
    for (const std::vector<TensorSpec>& of_stage : specs) {
      Stage stage;
      stage.params = std::make_unique<ParameterSet>(of_stage, group.device(), dtype, group.ranks());
      const Tensor mask = stage.params->decay_mask();
      stage.length = stage.params->length();
      stage.part = mask.size(0) / group.ranks();
      stage.offset = total;
      total += stage.part;
      count_ += stage.params->count();
      masks.push_back(mask.narrow(0, group.rank() * stage.part, stage.part).clone());
      stage.params->let_go();
      stage.params->let_gradients_go();
      staged_.add(stage.params.get());
      stages_.push_back(std::move(stage));
    }
    flat_ = torch::zeros({total}, options_);
    grad_ = torch::zeros({total}, options_);
    decay_mask_ = torch::cat(masks);
  }

  Tensor& flat() override { return flat_; }
  Tensor& grad() override { return grad_; }
  const Tensor& decay_mask() const override { return decay_mask_; }
  torch::Device device() const override { return group_.device(); }
  std::int64_t count() const override { return count_; }
  int rank() const override { return group_.rank(); }
  int ranks() const override { return group_.ranks(); }

  void load(const std::map<std::string, cortex::Tensor>& tensors) override {
    const torch::NoGradGuard no_grad;
    for (Stage& stage : stages_) {
      stage.params->take(torch::zeros({stage.part * group_.ranks()}, options_));
      stage.params->load(tensors);
      part_of(flat_, stage)
          .copy_(stage.params->flat().narrow(0, group_.rank() * stage.part, stage.part));
      stage.params->let_go();
    }
  }

  std::map<std::string, cortex::Tensor> save(const Tensor& flat) override {
    std::map<std::string, cortex::Tensor> out;
    for (const Stage& stage : stages_) {
      const Tensor whole = torch::empty({stage.part * group_.ranks()}, options_);
      group_.all_gather(whole, part_of(flat, stage))->wait();
      if (group_.rank() == 0) out.merge(stage.params->save(whole));
    }
    // Nothing is written of what a lost rank did not send.
    group_.barrier();
    return out;
  }

  std::vector<std::int64_t> stage_lengths() const override {
    std::vector<std::int64_t> out;
    for (const Stage& stage : stages_) out.push_back(stage.length);
    return out;
  }

  double learn(const std::vector<CropBatch>& parts, const Tensor& mean, const Tensor& std,
               bool bf16) override {
    const Bf16Products products(bf16);
    grad_.zero_();
    const auto wide = options_.dtype(torch::kFloat64);
    Tensor error = torch::zeros({}, wide);
    double scored = 0;
    for (const CropBatch& part : parts) {
      error += learn_part(part, mean, std);
      scored += static_cast<double>(part.scored);
    }
    // One exchange, and one wait for the device, an update.
    const auto sums = group_.sum(torch::stack(
        {error, grad_.pow(2).sum().to(torch::kFloat64), torch::full({}, scored, wide)}));
    const double values = std::max(1.0, sums[2]) * static_cast<double>(mean.size(0));
    grad_.div_(values);
    gradient_norm_ = std::sqrt(sums[1]) / values;
    return sums[0] / values;
  }

  double gradient_norm() override { return gradient_norm_; }
  const Network& network() const override { return network_; }

  Tensor forward(const CropBatch& batch) {
    const torch::NoGradGuard no_grad;
    Tensor z;
    for (int i = 0; i < stages(); ++i) {
      gather(i);
      gather_ahead(i + 1);
      z = plain_->run_stage(i, z, batch);
      let_go(i);
    }
    return z;
  }

 private:
  /// A stage's gradient under way to the ranks that hold its parts.
  struct Scatter {
    int index = 0;
    Tensor part;
    std::unique_ptr<ProcessGroup::Pending> pending;
  };

  int stages() const { return static_cast<int>(stages_.size()); }
  Stage& stage(int index) { return stages_[static_cast<std::size_t>(index)]; }
  static Tensor part_of(const Tensor& flat, const Stage& stage) {
    return flat.narrow(0, stage.offset, stage.part);
  }

  /// Begins to gather a stage's parameters; one that is under way or here is left alone.
  void gather_ahead(int index) {
    if (index < 0 || index >= stages()) return;
    Stage& s = stage(index);
    if (s.here || s.gathering) return;
    s.whole = torch::empty({s.part * group_.ranks()}, options_);
    s.gathering = group_.all_gather(s.whole, part_of(flat_, s));
  }
  void gather(int index) {
    gather_ahead(index);
    Stage& s = stage(index);
    if (s.here) return;
    s.gathering->wait();
    s.gathering.reset();
    s.params->take(s.whole);
    s.whole = Tensor();
    s.here = true;
  }
  void let_go(int index) {
    stage(index).params->let_go();
    stage(index).here = false;
  }

  /// Adds this rank's part of the gradient of the sum of squared errors, which it returns.
  Tensor learn_part(const CropBatch& batch, const Tensor& mean, const Tensor& std) {
    std::vector<Tensor> before(stages_.size());
    std::vector<Tensor> after(stages_.size());
    for (int i = 0; i < stages(); ++i) {
      const auto at = static_cast<std::size_t>(i);
      gather(i);
      gather_ahead(i + 1);
      if (i > 0) before[at] = after[at - 1].detach().requires_grad_(true);
      after[at] = plain_->run_stage(i, before[at], batch);
      // The last one's gradient is next.
      if (i + 1 < stages()) let_go(i);
    }
    const Tensor error = squared_error(after.back(), batch, mean, std);
    after.back() = error;
    Tensor above;  // gradient of what the stage gives
    Scatter scatter;
    for (int i = stages() - 1; i >= 0; --i) {
      const auto at = static_cast<std::size_t>(i);
      gather(i);
      gather_ahead(i - 1);
      stage(i).params->make_gradients();
      after[at].backward(above);
      if (i > 0) above = before[at].grad();
      before[at] = after[at] = Tensor();
      let_go(i);
      finish(scatter);
      scatter = begin_scatter(i);
    }
    finish(scatter);
    return error.detach();
  }

  Scatter begin_scatter(int index) {
    const Stage& s = stage(index);
    Scatter out{index, torch::empty({s.part}, options_), nullptr};
    out.pending = group_.reduce_scatter(s.params->grad(), out.part);
    return out;
  }
  void finish(Scatter& scatter) {
    if (!scatter.pending) return;
    const torch::NoGradGuard no_grad;
    scatter.pending->wait();
    part_of(grad_, stage(scatter.index)).add_(scatter.part);
    stage(scatter.index).params->let_gradients_go();
    scatter.pending.reset();
  }

  ProcessGroup& group_;
  torch::TensorOptions options_;
  StagedParameters staged_;
  std::unique_ptr<Network> plain_;
  ShardedNetwork network_;
  std::vector<Stage> stages_;
  std::int64_t count_ = 0;
  double gradient_norm_ = 0;
  Tensor flat_, grad_, decay_mask_;
};

Tensor ShardedNetwork::forward(const CropBatch& batch) const { return owner_.forward(batch); }

}  // namespace

std::unique_ptr<Learner> make_sharded_learner(const ModelConfig& config, double step_ms,
                                              torch::Dtype dtype, ProcessGroup& group) {
  return std::make_unique<ShardedLearner>(config, step_ms, dtype, group);
}

}  // namespace cortex::train
