#include "data/trial_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <stdexcept>

#include "core/random.h"

namespace cortex {
namespace {

struct Rows {
  std::vector<float> truth, decoded;
  std::vector<std::uint8_t> mask;
  std::vector<std::int32_t> trial;
};

/// Trials of 10 steps and 2 dimensions; errors have a variance of `noise` squared, truth of 1.
Rows make(int trials, double noise, std::uint64_t seed, std::uint64_t truth_seed = 7) {
  Random truth(truth_seed, {});
  Random error(seed, {1});
  Rows rows;
  for (int i = 0; i < trials * 10; ++i) {
    rows.mask.push_back(i % 4 != 1);
    rows.trial.push_back(i / 10);
    for (int d = 0; d < 2; ++d) {
      rows.truth.push_back(static_cast<float>(truth.normal()));
      rows.decoded.push_back(rows.truth.back() + static_cast<float>(noise * error.normal()));
    }
  }
  return rows;
}

std::vector<TrialScore> score(const Rows& r) {
  return score_trials(r.truth, r.decoded, r.mask, r.trial, 2);
}

TEST(TrialScores, PooledEqualsTheScoreOfAllSteps) {
  const Rows rows = make(30, 0.5, 1);
  const R2 whole = r2_score(rows.truth, rows.decoded, rows.mask, 2);
  const R2 pooled = pooled_r2(score(rows));
  EXPECT_EQ(pooled.rows, whole.rows);
  EXPECT_NEAR(pooled.mean, whole.mean, 1e-9);
  for (int d = 0; d < 2; ++d) EXPECT_NEAR(pooled.per_dim[d], whole.per_dim[d], 1e-9);
}

TEST(TrialScores, TheIntervalHoldsTheTrueScoreAboutAsOftenAsItSays) {
  int held = 0;
  constexpr int kTimes = 200;
  for (std::uint64_t i = 0; i < kTimes; ++i) {
    const ConfidenceInterval c = bootstrap_r2(score(make(40, 0.5, i, 1000 + i)), 300, i);
    held += c.low <= 0.75 && 0.75 <= c.high;
  }
  EXPECT_GE(held, kTimes * 88 / 100);
  EXPECT_LT(held, kTimes);
}

TEST(TrialScores, PairingFindsADifferenceThatSingleIntervalsHide) {
  Rows a = make(60, 0.5, 1);
  Rows b = a;
  for (std::size_t i = 0; i < b.decoded.size(); ++i)
    b.decoded[i] = a.truth[i] + 1.05f * (a.decoded[i] - a.truth[i]);
  const auto first = score(a);
  const auto second = score(b);
  EXPECT_GT(bootstrap_r2(second, 500, 1).high, bootstrap_r2(first, 500, 1).low);
  const PairedDifference d = paired_bootstrap(first, second, 500, 1);
  EXPECT_GT(d.low, 0);
  EXPECT_LT(d.p, 0.01);
  EXPECT_NEAR(d.difference, pooled_r2(first).mean - pooled_r2(second).mean, 1e-12);
  const PairedDifference same = paired_bootstrap(first, first, 500, 1);
  EXPECT_EQ(same.difference, 0);
  EXPECT_EQ(same.p, 1);
}

TEST(TrialScores, OnlyScoresOfTheSameStepsCanBePaired) {
  const auto a = score(make(20, 0.5, 1));
  EXPECT_THROW(paired_bootstrap(a, score(make(19, 0.5, 1)), 10, 1), std::invalid_argument);
  EXPECT_THROW(paired_bootstrap(a, score(make(20, 0.5, 1, 8)), 10, 1), std::invalid_argument);
}

TEST(TrialScores, NothingScoredIsNotANumber) {
  EXPECT_TRUE(std::isnan(pooled_r2({}).mean));
  EXPECT_TRUE(std::isnan(bootstrap_r2({}, 10, 1).low));
}

}  // namespace
}  // namespace cortex
