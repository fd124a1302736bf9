#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/recording.h"

/// Cross-validation over the trials of recordings, by renaming their splits: whatever trains on
/// "train" and scores on "test" then does so on that fold.
///
///     FoldOptions options;
///     options.folds = 5;
///     for (int f = 0; f < options.folds; ++f) fit(fold_recordings(recordings, options,
///     f).value());
namespace cortex {

enum class FoldScheme {
  trial,  ///< trials are dealt out at random
  block,  ///< a fold is a run of trials in time
};
/// invalid_argument: neither "trial" nor "block".
Result<FoldScheme> parse_fold_scheme(const std::string& name);

struct FoldOptions {
  int folds = 5;
  FoldScheme scheme = FoldScheme::trial;
  /// A trial of another fold that lies nearer than this to one of the present fold is neither
  /// trained on nor scored. With 0 only trials that overlap are left out.
  double guard_s = 0;
  std::uint64_t seed = 1;      ///< of the deal by trial
  std::string splits = "all";  ///< trials that take part, comma separated; others are left out
};

/// Splits of the result: "test" for trials of `fold`, "train" for those of the others, "guard" for
/// those that the guard leaves out, "unused" for those that take no part. Each recording is dealt
/// by itself, so every one is in every fold. invalid_argument: an option out of range, fewer trials
/// than folds, or nothing left to train on.
Result<std::vector<Recording>> fold_recordings(const std::vector<Recording>& recordings,
                                               const FoldOptions& options, int fold);

/// All but so many trials of the splits `splits` become "unused"; which ones is drawn by `seed`.
/// `counts`: one number for every recording, or one each; 0 keeps all. invalid_argument: a
/// recording has fewer, or there are neither one nor as many numbers as recordings.
Result<std::vector<Recording>> keep_trials(const std::vector<Recording>& recordings,
                                           const std::string& splits,
                                           std::span<const std::int64_t> counts,
                                           std::uint64_t seed);

/// Whether `split` is one of `splits` (comma separated; "all": any).
bool split_wanted(const std::string& splits, const std::string& split);

}  // namespace cortex
