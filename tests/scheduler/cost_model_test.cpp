#include "scheduler/cost_model.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <cmath>

#include "core/random.h"

namespace cortex::testing {
namespace {

// What every prediction holds above a measurement at the start.
constexpr double kMargin = 1.1;

TEST(CostModel, StartsFromMeasurementsAndFillsInWhatIsMissing) {
  const CostModel model(
      64, std::vector<BatchCost>{{1, 0, 100}, {1, 100, 300}, {4, 0, 250}, {4, 400, 1050}});
  EXPECT_NEAR(model.predict(1, 0), 100 * kMargin, 2);
  EXPECT_NEAR(model.predict(1, 50), 200 * kMargin, 2);
  EXPECT_NEAR(model.predict(2, 0), 150 * kMargin, 2);
  EXPECT_NEAR(model.predict(64, 0), (250 + 60 * 50) * kMargin, 10) << "beyond what was measured";
  EXPECT_NEAR(model.keys_per_row(), 50, 1e-9);
}

TEST(CostModel, OneMeasurementSaysThatRowsCostInProportion) {
  const CostModel model(16, std::vector<BatchCost>{{1, 10, 1000}});
  EXPECT_NEAR(model.predict(16, 160), 16 * model.predict(1, 10), 16);
}

TEST(CostModel, ADisturbedMeasurementCountsNoMoreThanItsMedian) {
  const CostModel model(2, std::vector<BatchCost>{{1, 0, 100'000'000}, {1, 0, 1000}, {1, 0, 990}});
  EXPECT_NEAR(model.predict(1, 0), 1000 * kMargin, 1);
}

TEST(CostModel, WithoutAnythingKnownTheFirstBatchSaysAll) {
  CostModel model(8);
  EXPECT_EQ(model.predict(8, 1000), 0);
  model.observe({2, 10, 2000});
  EXPECT_EQ(model.predict(2, 10), 2000);
  EXPECT_EQ(model.predict(1, 0), 1000);
}

RC_GTEST_PROP(CostModel, LearnsTheUpperQuantileOfAnyCostAndJitter, ()) {
  const double batch = *rc::gen::inRange(0, 1000), row = *rc::gen::inRange(1, 500);
  const double key = *rc::gen::inRange(0, 10), jitter = *rc::gen::element(0.02, 0.1, 0.3);
  const int most = *rc::gen::inRange(1, 65);
  Random random(*rc::gen::arbitrary<std::uint32_t>(), {});
  CostModel model(most, std::vector<BatchCost>{{1, 10, 1000}});
  const auto draw = [&] {
    const auto rows = static_cast<int>(1 + random.below(static_cast<std::uint64_t>(most)));
    const auto keys =
        static_cast<std::int64_t>(random.below(80 * static_cast<std::uint64_t>(rows)));
    const double us =
        (batch + row * rows + key * static_cast<double>(keys)) * random.lognormal(0, jitter);
    return BatchCost{rows, keys, std::llround(us * 1e3)};
  };
  for (int i = 0; i < 20'000; ++i) model.observe(draw());
  int above = 0;
  constexpr int kTrials = 4000;
  for (int i = 0; i < kTrials; ++i) {
    const BatchCost b = draw();
    above += b.took > model.predict(b.rows, b.keys) ? 1 : 0;
    model.observe(b);
  }
  RC_LOG() << "above the prediction: " << above << " of " << kTrials;
  RC_ASSERT(above < 0.1 * kTrials);
  RC_ASSERT(above > 0.01 * kTrials);
}

TEST(CostModel, AStallOf100MsCountsNoMoreThanABatchThatTookALittleLong) {
  CostModel stalled(4, std::vector<BatchCost>{{1, 0, 1000}, {4, 0, 2000}});
  CostModel slow = stalled;
  stalled.observe({2, 0, 100'000'000});
  slow.observe({2, 0, slow.predict(2, 0) + 1});
  EXPECT_EQ(stalled.predict(2, 0), slow.predict(2, 0));
  EXPECT_LT(slow.predict(2, 0), 1.05 * 1.1 * (1000 + 1000 / 3.0));
}

TEST(CostModel, FollowsAMachineThatBecomesTwiceAsSlowForBatchesItHasNotSeenSince) {
  CostModel model(16, std::vector<BatchCost>{{1, 0, 1000}, {16, 0, 4000}});
  const TimeNs before = model.predict(16, 0);
  for (int i = 0; i < 60; ++i) model.observe({1, 0, 2000});
  EXPECT_GT(model.predict(1, 0), 1990);
  EXPECT_GT(model.predict(16, 0), 1.3 * static_cast<double>(before));
}

/// What a machine does whose batches each take `extra` beyond the two measurements of `measured()`.
std::vector<BatchCost> measured() { return {{1, 0, 220'000}, {16, 0, 3'520'000}}; }

void run_small_batches(CostModel& model, int most, TimeNs extra, double slower, int batches) {
  Random random(1, {});
  for (int i = 0; i < batches; ++i) {
    const auto rows = static_cast<int>(1 + random.below(static_cast<std::uint64_t>(most)));
    const double ns = slower * (220'000.0 * rows + static_cast<double>(extra));
    model.observe({rows, 0, std::llround(ns * random.lognormal(0, 0.15))});
  }
}

TEST(CostModel, WhatEveryBatchTakesLongerDoesNotCountForEveryRowOfLargeOnes) {
  // Small batches alone run, each 60 us longer than measured: 27 % of one row, 1.7 % of sixteen.
  CostModel model(16, measured());
  run_small_batches(model, 4, 60'000, 1, 4000);
  const double mean_jitter = std::exp(0.5 * 0.15 * 0.15);
  const double truth = 16 / (3.58e-3 * mean_jitter);
  EXPECT_NEAR(model.rows_hz(16), truth, 0.04 * truth);
  // An upper quantile of the largest batch, too.
  EXPECT_NEAR(static_cast<double>(model.predict(16, 0)), 3'580'000 * std::exp(1.645 * 0.15),
              0.12 * 3'580'000);
}

TEST(CostModel, WhereOneSizeAloneRunsWhatItTakesLongerIsHalfTheBatchsAndHalfTheRows) {
  CostModel model(16, measured());
  run_small_batches(model, 1, 60'000, 1, 4000);
  const double mean_jitter = std::exp(0.5 * 0.15 * 0.15);
  const double half = 16 / ((3.52e-3 + 16 * 30e-6 + 30e-6) * mean_jitter);
  EXPECT_NEAR(model.rows_hz(16), half, 0.04 * half);
}

TEST(CostModel, AMachineThatBecomesSlowerSaysSoInSmallBatchesOfSeveralSizes) {
  CostModel model(16, measured());
  run_small_batches(model, 4, 60'000, 1, 4000);
  run_small_batches(model, 4, 60'000, 2, 30'000);
  const double truth = 16 / (2 * 3.58e-3 * std::exp(0.5 * 0.15 * 0.15));
  EXPECT_NEAR(model.rows_hz(16), truth, 0.06 * truth);
}

TEST(CostModel, DoubtSinksToTheLowestThatWasEverPredictedAndNoFurther) {
  CostModel model(1, std::vector<BatchCost>{{1, 0, 1000}});
  const TimeNs lowest = model.predict(1, 0);
  for (int i = 0; i < 100; ++i) model.observe({1, 0, 8000});
  ASSERT_GT(model.predict(1, 0), 7000);
  int doubts = 0;
  while (model.predict(1, 0) > 1.05 * static_cast<double>(lowest) && doubts < 1000) {
    model.doubt();
    ++doubts;
  }
  EXPECT_LT(doubts, 200);
  for (int i = 0; i < 1000; ++i) model.doubt();
  EXPECT_GE(model.predict(1, 0), lowest - 1);
}

TEST(CostModel, CapacityIsByWhatBatchesTakeOnAverageStallsIncluded) {
  // A tenth of the time is lost in stalls.
  CostModel model(4, std::vector<BatchCost>{{1, 0, 1'000'000}, {4, 0, 2'000'000}});
  EXPECT_NEAR(model.rows_hz(4), 2000, 20);
  EXPECT_NEAR(model.rows_hz(1), 1000, 10);
  for (int i = 1; i <= 40'000; ++i)
    model.observe({4, 0, 2'000'000 + (i % 100 == 0 ? 22'222'222 : 0)});
  EXPECT_NEAR(model.rows_hz(4), 1800, 90);
}

TEST(CostModel, PausesBetweenBatchesCountForCapacityAlone) {
  CostModel model(4, std::vector<BatchCost>{{1, 0, 1'000'000}, {4, 0, 2'000'000}});
  CostModel paused = model;
  for (int i = 0; i < 20'000; ++i) {
    model.observe({4, 0, 2'000'000});
    paused.observe({4, 0, 2'000'000});
    paused.paused(500'000);
  }
  EXPECT_EQ(paused.predict(4, 0), model.predict(4, 0));
  EXPECT_NEAR(paused.rows_hz(4), 0.8 * model.rows_hz(4), 0.02 * model.rows_hz(4));
}

TEST(CostModel, CapacityIsThatOfTheLargestBatchAndNotOfOneThatWasNotSeenOfLate) {
  CostModel model(16, std::vector<BatchCost>{{1, 0, 1'000'000}, {16, 0, 8'000'000}});
  for (int i = 0; i < 2000; ++i) model.observe({16, 0, 24'000'000});
  EXPECT_NEAR(model.rows_hz(16), 16 / 24e-3, 40);
}

TEST(CostModel, CapacityCountsOnlyBatchesThatAreShortEnough) {
  const CostModel model(16, std::vector<BatchCost>{{1, 0, 1'000'000}, {16, 0, 4'000'000}});
  EXPECT_NEAR(model.rows_hz(16), 4000, 40);
  EXPECT_NEAR(model.rows_hz(16, 2'200'000), 6 / 2.0e-3, 40) << "six rows in two milliseconds";
  EXPECT_NEAR(model.rows_hz(16, 1), 1000, 10) << "a batch of one is always allowed";
}

}  // namespace
}  // namespace cortex::testing
