#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "train/network.h"
#include "train/process_group.h"

namespace cortex::train {

/// Parameters under training and the way to their gradient: whole in this process, or a part on
/// each of several ranks. Vectors of the optimiser are as long as flat(). Calls marked "together"
/// are made by all ranks at once.
class Learner {
 public:
  virtual ~Learner() = default;

  virtual torch::Tensor& flat() = 0;
  virtual torch::Tensor& grad() = 0;
  /// 1 where weight decay applies.
  virtual const torch::Tensor& decay_mask() const = 0;
  virtual torch::Device device() const = 0;
  virtual std::int64_t count() const = 0;  ///< of all ranks
  virtual int rank() const { return 0; }
  virtual int ranks() const { return 1; }

  virtual void load(const std::map<std::string, Tensor>& tensors) = 0;
  /// Values of each stage in whole vectors, in their order: how the parts of ranks are cut again
  /// for another number of them. Empty: the learner is not sharded.
  virtual std::vector<std::int64_t> stage_lengths() const { return {}; }
  /// The tensors of a vector by name, on rank 0; nothing on others. Together.
  virtual std::map<std::string, Tensor> save(const torch::Tensor& flat) = 0;

  /// Sets grad() to that of the sum of squared errors over all ranks' parts, divided by the number
  /// of scored values of all ranks; returns that mean. Where spikes are learned, of poisson_loss(),
  /// divided by the number of cells asked for. `bf16`: products in bfloat16. Together.
  virtual double learn(const std::vector<CropBatch>& parts, const torch::Tensor& mean,
                       const torch::Tensor& std, bool bf16) = 0;
  /// Of grad(), over all ranks. Together.
  virtual double gradient_norm() = 0;
  /// What answers with flat(). Together.
  virtual const Network& network() const = 0;
};

/// `learned`: the tensors that have a gradient; empty: all.
std::unique_ptr<Learner> make_learner(const ModelConfig& config, double step_ms,
                                      torch::Device device, torch::Dtype dtype,
                                      const std::vector<std::string>& learned);
/// Of a SpikeNet, from batches with hidden spikes.
std::unique_ptr<Learner> make_spike_learner(const ModelConfig& config, torch::Device device,
                                            torch::Dtype dtype);

/// Every rank holds 1/N of parameters, gradients and whatever the optimiser keeps, cut stage by
/// stage, on the group's device. A stage's parameters are gathered while the one before it
/// computes, let go after it and gathered again for its gradient, which is summed over ranks and
/// scattered in the parameters' own type while the stage below computes its own. `group` outlives
/// it.
std::unique_ptr<Learner> make_sharded_learner(const ModelConfig& config, double step_ms,
                                              torch::Dtype dtype, ProcessGroup& group);

}  // namespace cortex::train
