#pragma once

#include <cortex/result.h>
#include <torch/torch.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace cortex::train {

/// A rank among others, as torchrun, Slurm or MPI launchers tell it.
struct RankEnvironment {
  int rank = 0;                ///< RANK
  int ranks = 1;               ///< WORLD_SIZE; 1 where the variable is absent
  int local_rank = -1;         ///< LOCAL_RANK: which of its machine's; -1 where it is absent
  std::string master_address;  ///< MASTER_ADDR
  int master_port = 0;         ///< MASTER_PORT
};
/// invalid_argument names the variable that is missing or makes no sense.
Result<RankEnvironment> rank_environment();

/// pick_device() of a rank: "auto" and "cuda" are the device of its local rank or, where the
/// launcher does not tell it, of its rank modulo the devices that are seen.
Result<torch::Device> rank_device(const std::string& name, const RankEnvironment& environment);

/// Collective operations of all ranks, over tensors of one type on device(). Every rank makes the
/// same calls in the same order. A rank that is gone makes them throw Exception unavailable on all
/// others, at once or after the timeout.
class ProcessGroup {
 public:
  /// Under way; `wait` before the tensors are touched. On a CUDA device it is the current stream
  /// that waits: what was gathered may be wrong until a later sum() has confirmed that all ranks
  /// came.
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual void wait() = 0;
  };

  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int ranks() const = 0;
  virtual torch::Device device() const = 0;
  /// whole [ranks * n] becomes every rank's part [n], by rank.
  virtual std::unique_ptr<Pending> all_gather(torch::Tensor whole, torch::Tensor part) = 0;
  /// part [n] becomes this rank's slice of the sum of all ranks' whole [ranks * n], which is used
  /// up.
  virtual std::unique_ptr<Pending> reduce_scatter(torch::Tensor whole, torch::Tensor part) = 0;
  /// Sums over all ranks of values [n], float64; waits for them.
  virtual std::vector<double> sum(const torch::Tensor& values) = 0;
  double sum(double value);
  void barrier() { (void)sum(0); }
};

/// Of one rank.
std::unique_ptr<ProcessGroup> lone_group(torch::Device device);

/// Joins the group: over Gloo on a CPU, over NCCL on a CUDA device. unsupported: this build lacks
/// what that needs, which it names.
Result<std::unique_ptr<ProcessGroup>> join_group(const RankEnvironment& environment,
                                                 torch::Device device,
                                                 std::chrono::milliseconds timeout);

}  // namespace cortex::train
