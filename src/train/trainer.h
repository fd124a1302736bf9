#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/folds.h"
#include "data/protocol.h"
#include "data/recording.h"
#include "data/trial_scores.h"

/// Training without a word of LibTorch in sight, so that apps/ and tests compile quickly.
///
///     cortex::train::TrainOptions options;
///     options.nwb = {"session.nwb"};
///     options.out = "model.safetensors";
///     auto report = cortex::train::train(options);
namespace cortex::train {

/// Where spikes and targets come from and how they are cut.
struct DataOptions {
  std::vector<std::string> nwb;  ///< recordings
  std::string units_by = "id";   ///< or "session": units of several recordings, see UnitsBy
  double bin_ms = 20;
  double step_ms = 20;
  std::optional<double> target_offset_ms;  ///< default: the step's centre
  std::string target = "auto";             ///< see data/target.h
  std::string units = "all";               ///< see data/unit_filter.h
  std::string split_by;                    ///< see data/split.h; empty: the file's own
  std::string train_split = "train";
  std::string val_split = "val";     ///< empty: nothing is evaluated
  ProtocolOptions protocol;          ///< which steps count
  std::optional<FoldOptions> folds;  ///< splits are then those of fold_recordings()
  int fold = -1;                     ///< which one; -1: recordings are left as they are
};

/// Departures from a preset.
struct ModelOverrides {
  std::optional<int> dim, layers, heads, latents, value_buckets, receptive_steps, window_steps,
      window_bins;
  std::optional<double> receptive_ms;
};

/// Chances with which a crop hides spikes that are to be told.
struct HidingOptions {
  double units = 0.25;  ///< each unit throughout; held-out units always
  double bins = 0.25;   ///< each (unit, bin) of the others
};

struct TrainOptions {
  DataOptions data;
  /// Set by pretrain(): hidden spikes are learned instead of behaviour.
  std::optional<HidingOptions> hiding;
  std::string preset = "stream-nano";
  ModelOverrides model;
  std::string out;      ///< model file to write
  std::string run_dir;  ///< checkpoint, metrics and best model; default: `out` + ".run"

  std::int64_t iterations = 0;  ///< 0: 3000, or without limit where `minutes` is given
  double minutes = 0;           ///< the schedule then follows the clock
  std::uint64_t seed = 1;
  std::int64_t batch = 0;       ///< crops an iteration; 0: by the kind of model
  std::int64_t crop_steps = 0;  ///< 0: by the kind of model
  double lr = 2e-3;
  double weight_decay = 0.3;
  bool bf16 = false;  ///< multiply in bfloat16; parameters and sums stay float32
  /// Model file to start from instead of random weights; its sizes count, not the preset's. Its
  /// units need not be those of the recordings: rows of units that it lacks start as the mean of
  /// its own.
  std::string init;
  /// What is learned: "all", or "units": the rows of the recordings' units alone, as when a trained
  /// decoder meets a new day with few labels. Output units must be those of `init`.
  std::string learn = "all";
  /// Whose rows a unit starts with, of those in `init`: "session": of the same id and session, or
  /// "id": of the same id, as on an array that stayed in place.
  std::string init_rows = "session";
  /// Trials of the split to learn from, drawn by `seed`: one number for every recording or one
  /// each; 0, or none: all.
  std::vector<std::int64_t> train_trials;
  bool float64 = false;         ///< parameters and all arithmetic, for comparisons
  double rank_timeout_s = 600;  ///< ranks wait this long for one another
  std::int64_t accumulate = 1;  ///< parts in which a batch is computed, for memory's sake
  /// Which weights are exported: "best" on `data.val_split`, or the "last" average.
  std::string select = "best";
  double clip = 1.0;
  double ema = 0.999;
  double unit_dropout = 0.6;
  double thinning = 0.4;
  std::optional<double> fresh_starts;  ///< default: by the kind of model
  std::int64_t warmup_iterations = 100;
  std::int64_t eval_every = 250;
  std::int64_t checkpoint_every = 100;
  bool resume = false;
  std::int64_t stop_after = 0;  ///< updates of this process, then a checkpoint; 0: to the end
  int threads = 0;              ///< 0: all cores of the process
  std::string device = "auto";  ///< auto, cpu, cuda or cuda:N; of several ranks each has its own
  bool quiet = false;
};

struct TrainReport {
  bool complete = true;  ///< false: stopped by `stop_after`, no model was written
  std::string model;
  std::string run_dir;
  /// Of the exported weights on the validation split; NaN without one. Where spikes are learned,
  /// bits a spike.
  double r2 = 0;
  std::vector<double> r2_per_dim;
  std::int64_t scored_steps = 0;
  std::int64_t iterations = 0;
  std::int64_t best_iteration = 0;
  std::int64_t parameters = 0;
  double seconds = 0;           ///< of the run, whichever processes it took
  double ms_per_iteration = 0;  ///< without evaluations
  double median_ms = 0;         ///< of an iteration, over the second half of them
  std::string device;
  int ranks = 1;
};

/// invalid_argument: a flag or a recording that cannot be trained on, naming it; not_found: a file;
/// corrupt_data: a checkpoint of another run.
Result<TrainReport> train(const TrainOptions& options);
/// The same on recordings already in memory; `options.data.nwb` is not read.
Result<TrainReport> train(const TrainOptions& options, const std::vector<Recording>& recordings);

/// Learns the spikes that `options.hiding` (default: HidingOptions()) hides from a stream decoder,
/// of recordings with or without behaviour, which is not looked at, and writes what it learned as a
/// file to start training from (`init`) or to score with evaluate(): see train/spike_head.h. Its
/// score is of held-out units or, where none is marked, of every fourth one.
Result<TrainReport> pretrain(const TrainOptions& options);
Result<TrainReport> pretrain(const TrainOptions& options, const std::vector<Recording>& recordings);

/// Recordings of `data.nwb`, without the units that `data.units` leaves out.
Result<std::vector<Recording>> load_recordings(const DataOptions& data);

struct EvaluateOptions {
  std::string model;
  DataOptions data;  ///< bins, steps and target offset come from the model where it has them
  std::string split = "val";
  std::string against;            ///< another model, on the same steps of the same trials
  bool reset_each_trial = false;  ///< nothing before a trial is known: a separate row
  double units_kept = 1;          ///< share of units that the decoders hear
  int resamples = 2000;           ///< of trials, for intervals
  std::uint64_t bootstrap_seed = 1;
  int threads = 0;
  std::string device = "auto";
};

struct EvaluateReport {
  std::string model;
  std::string protocol;  ///< "causal", "onset" or "nlb"
  std::string clock;     ///< "continuous" or "reset-each-trial"
  double r2 = 0;
  std::vector<double> r2_per_dim;
  std::vector<std::string> output_names;
  std::int64_t steps = 0;
  std::int64_t trials = 0;
  std::int64_t unobserved = 0;  ///< of the steps: nothing was being recorded then
  /// Of a pretrained file, which decodes no behaviour: how well it tells the spikes of the units
  /// that the recordings hold out, in bits a spike (data/bits_per_spike.h).
  std::optional<double> co_bps;
  std::int64_t held_out_units = 0;
  std::int64_t held_out_spikes = 0;
  ConfidenceInterval interval;  ///< of r2, 95%, over trials
  double against_r2 = 0;        ///< of the other model
  PairedDifference difference;  ///< model minus the other one
};

/// Scores a model file, causally, on the steps that the protocol names in the split's trials. With
/// `data.folds` and no `data.fold`, `model` holds "{fold}", and all folds' tested trials are scored
/// together, each by its own model.
Result<EvaluateReport> evaluate(const EvaluateOptions& options);
Result<EvaluateReport> evaluate(const EvaluateOptions& options,
                                const std::vector<Recording>& recordings);

/// Decodes steps [0, steps) of a recording in float64 as the definition reads, for comparison with
/// the engine; a JSON document with events and outputs.
Result<std::string> reference_outputs(const EvaluateOptions& options, std::int64_t steps);

}  // namespace cortex::train
