#include "data/folds.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <sstream>

#include "core/random.h"

namespace cortex {
namespace {

Error bad(const char* field, const std::string& what) {
  return {ErrorCode::invalid_argument, what, field};
}

/// Trials that take part, in the order in which they are dealt.
std::vector<std::size_t> deal(const Recording& recording, const FoldOptions& options,
                              std::uint64_t which) {
  std::vector<std::size_t> order;
  for (std::size_t t = 0; t < recording.trials.size(); ++t)
    if (split_wanted(options.splits, recording.trials[t].split)) order.push_back(t);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return recording.trials[a].span.start_s < recording.trials[b].span.start_s;
  });
  if (options.scheme == FoldScheme::block) return order;
  Random random(options.seed, {which});
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

int fold_of(std::size_t place, std::size_t count, const FoldOptions& options) {
  const auto folds = static_cast<std::size_t>(options.folds);
  return static_cast<int>(options.scheme == FoldScheme::block ? place * folds / count
                                                              : place % folds);
}

bool near(const Interval& a, const Interval& b, double guard_s) {
  return a.start_s < b.stop_s + guard_s && b.start_s < a.stop_s + guard_s;
}

}  // namespace

Result<FoldScheme> parse_fold_scheme(const std::string& name) {
  if (name == "trial") return FoldScheme::trial;
  if (name == "block") return FoldScheme::block;
  return bad("fold-scheme", fmt::format("fold scheme '{}' is not trial or block", name));
}

bool split_wanted(const std::string& splits, const std::string& split) {
  if (splits == "all") return true;
  std::stringstream list(splits);
  for (std::string one; std::getline(list, one, ',');)
    if (one == split) return true;
  return false;
}

Result<std::vector<Recording>> keep_trials(const std::vector<Recording>& recordings,
                                           const std::string& splits,
                                           std::span<const std::int64_t> counts,
                                           std::uint64_t seed) {
  if (counts.size() != 1 && counts.size() != recordings.size())
    return bad("train-trials", fmt::format("{} numbers of trials for {} recordings", counts.size(),
                                           recordings.size()));
  std::vector<Recording> out = recordings;
  FoldOptions options;
  options.splits = splits;
  options.seed = seed;
  for (std::size_t r = 0; r < out.size(); ++r) {
    const std::int64_t count = counts.size() == 1 ? counts[0] : counts[r];
    if (count == 0) continue;
    const auto order = deal(out[r], options, r);
    if (count < 0 || order.size() < static_cast<std::size_t>(count))
      return bad("train-trials", fmt::format("{} trials are wanted, {} has {} of split '{}'", count,
                                             out[r].path, order.size(), splits));
    for (std::size_t i = static_cast<std::size_t>(count); i < order.size(); ++i)
      out[r].trials[order[i]].split = "unused";
  }
  return out;
}

Result<std::vector<Recording>> fold_recordings(const std::vector<Recording>& recordings,
                                               const FoldOptions& options, int fold) {
  if (options.folds < 2 || options.folds > 1000)
    return bad("folds", fmt::format("folds is {}, allowed are 2 to 1000", options.folds));
  if (fold < 0 || fold >= options.folds)
    return bad("fold", fmt::format("fold is {}, there are 0 to {}", fold, options.folds - 1));
  if (!std::isfinite(options.guard_s) || options.guard_s < 0)
    return bad("fold-guard", fmt::format("the guard is {} s", options.guard_s));
  std::vector<Recording> out = recordings;
  for (std::size_t r = 0; r < out.size(); ++r) {
    Recording& recording = out[r];
    const auto order = deal(recording, options, r);
    if (order.size() < static_cast<std::size_t>(options.folds))
      return bad("folds", fmt::format("{}: {} trials for {} folds", recording.path, order.size(),
                                      options.folds));
    for (Trial& trial : recording.trials) trial.split = "unused";
    std::vector<Interval> held;
    for (std::size_t i = 0; i < order.size(); ++i) {
      Trial& trial = recording.trials[order[i]];
      trial.split = fold_of(i, order.size(), options) == fold ? "test" : "train";
      if (trial.split == "test") held.push_back(trial.span);
    }
    int left = 0;
    for (Trial& trial : recording.trials) {
      if (trial.split != "train") continue;
      const bool guarded = std::any_of(held.begin(), held.end(), [&](const Interval& span) {
        return near(trial.span, span, options.guard_s);
      });
      if (guarded) trial.split = "guard";
      left += !guarded;
    }
    if (left == 0)
      return bad("fold-guard", fmt::format("{}: a guard of {} s leaves no trial to train on",
                                           recording.path, options.guard_s));
  }
  return out;
}

}  // namespace cortex
