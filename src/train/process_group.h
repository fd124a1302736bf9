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
  std::string master_address;  ///< MASTER_ADDR
  int master_port = 0;         ///< MASTER_PORT
};
/// invalid_argument names the variable that is missing or makes no sense.
Result<RankEnvironment> rank_environment();

/// Collective operations of all ranks, over tensors of one type in host memory. Every rank makes
/// the same calls in the same order. A rank that is gone makes them throw Exception unavailable on
/// all others, at once or after the timeout.
class ProcessGroup {
 public:
  /// Under way; `wait` before the tensors are touched.
  class Pending {
   public:
    virtual ~Pending() = default;
    virtual void wait() = 0;
  };

  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int ranks() const = 0;
  /// whole [ranks * n] becomes every rank's part [n], by rank.
  virtual std::unique_ptr<Pending> all_gather(torch::Tensor whole, torch::Tensor part) = 0;
  /// part [n] becomes this rank's slice of the sum of all ranks' whole [ranks * n], which is used
  /// up.
  virtual void reduce_scatter(torch::Tensor whole, torch::Tensor part) = 0;
  virtual double sum(double value) = 0;
  virtual void barrier() = 0;
};

/// Of one rank.
std::unique_ptr<ProcessGroup> lone_group();

/// Joins the group over Gloo. unsupported: this build has no c10d.
Result<std::unique_ptr<ProcessGroup>> join_group(const RankEnvironment& environment,
                                                 std::chrono::milliseconds timeout);

}  // namespace cortex::train
