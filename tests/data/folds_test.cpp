#include "data/folds.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

namespace cortex {
namespace {

Recording recording_of(int trials, double period_s, double length_s) {
  Recording r;
  r.path = "memory.nwb";
  for (int i = 0; i < trials; ++i)
    r.trials.push_back({i, {period_s * i, period_s * i + length_s}, i % 5 ? "train" : "val", {}});
  return r;
}

std::map<std::string, std::set<std::int64_t>> splits_of(const Recording& r) {
  std::map<std::string, std::set<std::int64_t>> out;
  for (const Trial& t : r.trials) out[t.split].insert(t.id);
  return out;
}

TEST(Folds, EveryTrialIsTestedOnceAndNeverTrainedOnThen) {
  const std::vector<Recording> recordings = {recording_of(23, 1, 0.5), recording_of(40, 1, 0.5)};
  for (const FoldScheme scheme : {FoldScheme::trial, FoldScheme::block}) {
    FoldOptions options;
    options.folds = 5;
    options.scheme = scheme;
    for (std::size_t r = 0; r < recordings.size(); ++r) {
      std::map<std::int64_t, int> tested;
      for (int fold = 0; fold < options.folds; ++fold) {
        const auto folded = fold_recordings(recordings, options, fold);
        ASSERT_TRUE(folded) << folded.error().message;
        const auto splits = splits_of((*folded)[r]);
        EXPECT_EQ(splits.at("test").size() + splits.at("train").size(),
                  recordings[r].trials.size());
        for (const auto id : splits.at("test")) ++tested[id];
      }
      EXPECT_EQ(tested.size(), recordings[r].trials.size());
      for (const auto& [id, times] : tested) EXPECT_EQ(times, 1) << id;
    }
  }
}

TEST(Folds, BlocksAreRunsInTimeWithAGuardOnBothSides) {
  FoldOptions options;
  options.folds = 4;
  options.scheme = FoldScheme::block;
  options.guard_s = 2;
  const auto folded = fold_recordings({recording_of(40, 1, 0.5)}, options, 1);
  ASSERT_TRUE(folded) << folded.error().message;
  const auto splits = splits_of(folded->front());
  EXPECT_EQ(*splits.at("test").begin(), 10);
  EXPECT_EQ(*splits.at("test").rbegin(), 19);
  // Trials 8 and 9 end 1.5 and 0.5 s before trial 10; 20 and 21 start 0.5 and 1.5 s after 19.
  EXPECT_EQ(splits.at("guard"), (std::set<std::int64_t>{8, 9, 20, 21}));
}

TEST(Folds, ATrialThatOverlapsATestedOneIsNotTrainedOn) {
  FoldOptions options;
  options.folds = 3;
  // Each trial reaches into the next.
  const auto folded = fold_recordings({recording_of(30, 1, 1.2)}, options, 0);
  ASSERT_TRUE(folded) << folded.error().message;
  for (const Trial& a : folded->front().trials)
    for (const Trial& b : folded->front().trials) {
      if (a.split != "train" || b.split != "test") continue;
      EXPECT_FALSE(a.span.start_s < b.span.stop_s && b.span.start_s < a.span.stop_s)
          << a.id << " " << b.id;
    }
}

TEST(Folds, TrialsOfOtherSplitsTakeNoPart) {
  FoldOptions options;
  options.splits = "train";
  const auto folded = fold_recordings({recording_of(50, 1, 0.5)}, options, 2);
  ASSERT_TRUE(folded) << folded.error().message;
  for (const Trial& t : folded->front().trials) EXPECT_EQ(t.split == "unused", t.id % 5 == 0);
}

TEST(Folds, TheSeedAloneDeals) {
  FoldOptions options;
  const std::vector<Recording> recordings = {recording_of(50, 1, 0.5)};
  const auto test_of = [&](const FoldOptions& o) {
    return splits_of(fold_recordings(recordings, o, 0)->front())["test"];
  };
  EXPECT_EQ(test_of(options), test_of(options));
  FoldOptions other = options;
  other.seed = 2;
  EXPECT_NE(test_of(options), test_of(other));
}

TEST(KeptTrials, AreAsManyOfEachRecordingAsItsNumberSays) {
  const std::vector<Recording> two = {recording_of(20, 1, 0.5), recording_of(30, 1, 0.5)};
  const auto kept = [&](const std::vector<std::int64_t>& counts, std::uint64_t seed) {
    return keep_trials(two, "train", counts, seed).value_or_throw();
  };
  const auto all = splits_of(two[0]).at("train");
  const auto mixed = kept({0, 5}, 1);
  EXPECT_EQ(splits_of(mixed[0]).at("train"), all);
  EXPECT_EQ(splits_of(mixed[1]).at("train").size(), 5U);
  EXPECT_EQ(splits_of(mixed[1]).at("val"), splits_of(two[1]).at("val"));
  for (const Recording& r : kept({3}, 1)) EXPECT_EQ(splits_of(r).at("train").size(), 3U);
  EXPECT_EQ(splits_of(kept({0, 5}, 1)[1]), splits_of(mixed[1]));
  EXPECT_NE(splits_of(kept({0, 5}, 2)[1]), splits_of(mixed[1]));
  for (const std::vector<std::int64_t>& wrong :
       {std::vector<std::int64_t>{17, 1}, {-1}, {1, 2, 3}, {}})
    EXPECT_EQ(keep_trials(two, "train", wrong, 1).error().field, "train-trials");
}

TEST(Folds, BadInputIsNamed) {
  const std::vector<Recording> recordings = {recording_of(6, 1, 0.5)};
  const auto refused = [&](const FoldOptions& options, int fold, const char* field) {
    const auto folded = fold_recordings(recordings, options, fold);
    ASSERT_FALSE(folded);
    EXPECT_EQ(folded.error().field, field) << folded.error().message;
  };
  FoldOptions o;
  refused(o, 5, "fold");
  refused(o, -1, "fold");
  o.folds = 1;
  refused(o, 0, "folds");
  o.folds = 7;
  refused(o, 0, "folds");
  o = {};
  o.guard_s = 100;
  refused(o, 0, "fold-guard");
  EXPECT_FALSE(parse_fold_scheme("random"));
}

}  // namespace
}  // namespace cortex
