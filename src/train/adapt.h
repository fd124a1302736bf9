#pragma once

#include "train/trainer.h"

namespace cortex::train {

/// A trained stream decoder meets a new day with few labels: the rows of the day's units are
/// learned and nothing else, and what comes out is kept only if it decodes trials that nothing was
/// learned from at least as well as the model did as it was.
///
///     AdaptOptions options;
///     options.model = "monday.safetensors";
///     options.data.nwb = {"tuesday.nwb"};
///     options.out = "tuesday.safetensors";
///     const auto report = adapt(options);   // report->written, report->before_r2,
///     report->after_r2
struct AdaptOptions {
  std::string model;
  /// Bins, steps and target offset are the model's. Learned from: `train_split`; held back:
  /// `val_split`.
  DataOptions data;
  std::string out;
  std::int64_t trials = 20;     ///< to learn from, drawn by `seed`
  bool force = false;           ///< write a worse model all the same
  std::int64_t iterations = 0;  ///< 0: until `minutes` are over
  double minutes = 1;           ///< of learning, where `iterations` is 0
  double lr = 1e-2;
  std::uint64_t seed = 1;
  /// See TrainOptions. By id, the day starts from what it is compared with.
  std::string init_rows = "id";
  int resamples = 2000;  ///< of held-back trials, for the interval
  int threads = 0;
  std::string device = "auto";
  bool quiet = false;
};

struct AdaptReport {
  bool written = false;         ///< false: worse than before, and not forced
  double before_r2 = 0;         ///< of the model as it is: what it does not know it does not hear
  double after_r2 = 0;          ///< both on the held-back trials
  PairedDifference difference;  ///< after minus before
  std::int64_t steps = 0;       ///< held back
  std::int64_t trials = 0;      ///< held back
  std::size_t units = 0;        ///< of the day
  std::size_t known_units = 0;  ///< of these, by id, in the model
  std::int64_t iterations = 0;
  double seconds = 0;  ///< all of it, reading and comparing included
};

/// Errors of train() and evaluate(); nothing is written then.
Result<AdaptReport> adapt(const AdaptOptions& options);
/// The same on recordings already in memory.
Result<AdaptReport> adapt(const AdaptOptions& options, const std::vector<Recording>& recordings);

}  // namespace cortex::train
