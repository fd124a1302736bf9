#pragma once

#include "train/trainer.h"

namespace cortex::train {

/// Ridge regression on binned counts with lags: the floor that a decoder has to clear, under the
/// same protocol (one clock, gaps are empty steps) on the same steps and targets.
struct RidgeOptions {
  DataOptions data;
  std::vector<std::string> eval_nwb;  ///< scored on their validation trials; empty: data.nwb
  int lags = 15;
  std::string out;  ///< servable model to write (lags up to 256); empty: none
  int threads = 0;
};

struct RidgeReport {
  double r2 = 0;
  std::vector<double> r2_per_dim;
  std::int64_t steps = 0;
  double alpha = 0;  ///< chosen on every fifth training trial, then refitted on all
  double inner_r2 = 0;
  std::vector<double> weights;  ///< [lags * units + 1, dims], the intercept last
};

Result<RidgeReport> ridge(const RidgeOptions& options);
Result<RidgeReport> ridge(const RidgeOptions& options, const std::vector<Recording>& training,
                          const std::vector<Recording>& scoring);

}  // namespace cortex::train
