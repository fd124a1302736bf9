#pragma once

#include <functional>

#include "data/steps.h"
#include "train/trainer.h"

namespace cortex::train {

/// Decoders under the same folds, steps and budget, into one table and one page.
struct CompareOptions {
  DataOptions data;  ///< `folds` set; `fold` for fit_fold alone
  /// "ridge", "kalman", a baseline of baseline_nets.h or a preset of model/config.h.
  std::vector<std::string> models = {"ridge",       "kalman", "gru",
                                     "transformer", "possm",  "stream-nano"};
  TrainOptions training;  ///< of every network alike; data, preset, out and run are set here
  int lags = 15;
  std::string run_dir;  ///< a folder a fold; a comparison that was interrupted goes on from it
  int resamples = 2000;
  std::uint64_t bootstrap_seed = 1;
};

struct CurvePoint {
  double x = 0;
  double r2 = 0;
};

/// Consecutive scored steps of one trial.
struct Trace {
  std::vector<float> truth, decoded;  ///< [steps, dims]
};

struct CompareRow {
  std::string name;
  bool learned = false;   ///< trained for the budget
  bool baseline = false;  ///< not a preset of our own
  std::int64_t parameters = 0;
  double fit_s = 0;  ///< all folds together
  R2 score;          ///< tested trials of all folds
  ConfidenceInterval interval;
  R2 reset;  ///< the same models with a reset at each trial
  std::vector<TrialScore> trials;
  PairedDifference difference;  ///< to the best baseline

  // Of the first fold alone.
  std::vector<CurvePoint> by_lag;      ///< x: ms that the truth is read after its own time
  std::vector<CurvePoint> by_units;    ///< x: share of units that is heard
  std::vector<CurvePoint> by_minutes;  ///< x: minutes of training
  std::vector<Trace> traces;
};

struct CompareReport {
  std::vector<CompareRow> rows;
  std::string best_baseline;  ///< empty: none was asked for
  std::string protocol;
  std::vector<std::string> output_names;
  std::string output_unit;
  double step_ms = 0;
  std::int64_t steps = 0;
  std::int64_t trials = 0;
  int folds = 0;
};

/// Every model is fitted on each fold's training trials, on every step of them or, under `onset`,
/// on the one that is scored (kalman: on every step), and scored on its tested ones; nothing is
/// chosen on a tested trial. `progress` is told what begins.
Result<CompareReport> compare(const CompareOptions& options,
                              const std::function<void(const std::string&)>& progress);

/// Fits every model in the fold `options.data.fold` alone and leaves it in run_dir, where `compare`
/// finds it: folds can be fitted side by side, or on several machines.
Result<void> fit_fold(const CompareOptions& options,
                      const std::function<void(const std::string&)>& progress);

std::string compare_json(const CompareReport& report, const CompareOptions& options);

/// One HTML page with its figures inside.
std::string compare_page(const CompareReport& report, const CompareOptions& options);

}  // namespace cortex::train
