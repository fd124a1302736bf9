#pragma once

#include "train/trainer.h"

namespace cortex::train {

/// Kalman filter over binned counts (Wu et al. 2006), with the gain that it settles to. Its state
/// is the behaviour of this step and of the next `lead` ones, so that counts inform about movement
/// to come and the answer is a fixed-lag smoothing of what they said; `lead` is chosen on every
/// fifth training trial. A step without a spike is a gap where fewer than 1% of observed training
/// steps have none. Written as a servable model: see model/linear_model.h.
struct KalmanOptions {
  DataOptions data;
  std::vector<int> leads = {0, 2, 4, 6, 8};  ///< steps, tried in turn
  std::string out;                           ///< empty: none is written
  int threads = 0;
};

struct KalmanReport {
  double r2 = 0;  ///< on data.val_split; NaN without one
  std::vector<double> r2_per_dim;
  std::int64_t steps = 0;
  int lead = 0;
  double inner_r2 = 0;
  int memory_steps = 0;  ///< until a state is forgotten
};

Result<KalmanReport> kalman(const KalmanOptions& options);
Result<KalmanReport> kalman(const KalmanOptions& options, const std::vector<Recording>& recordings);

}  // namespace cortex::train
