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
        static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(80 * rows)));
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
