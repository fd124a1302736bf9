#include "data/steps.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "recordings.h"

namespace cortex {
namespace {

/// One observed second, one trial over all of it, hand_vel = (t, -2t) at 100 Hz.
Recording second(std::vector<std::vector<double>> spikes) {
  Recording r;
  for (std::size_t u = 0; u < spikes.size(); ++u) {
    Unit unit;
    unit.id = std::to_string(u);
    unit.spike_times_s = std::move(spikes[u]);
    unit.observed = {{0, 1}};
    r.units.push_back(std::move(unit));
  }
  r.trials = {{0, {0, 1}, "train", {}}};
  BehaviorSeries vel;
  vel.name = "hand_vel";
  vel.unit = "mm/s";
  vel.dims = 2;
  for (int i = 0; i <= 100; ++i) {
    vel.times_s.push_back(i / 100.0);
    vel.values.push_back(static_cast<float>(i / 100.0));
    vel.values.push_back(static_cast<float>(-2 * i / 100.0));
  }
  r.behavior = {vel};
  return r;
}

SteppedRecording cut(const Recording& recording, const StepOptions& options = {}) {
  auto stepped = step_recording(recording, options);
  EXPECT_TRUE(stepped) << stepped.error().message;
  return std::move(*stepped);
}

TEST(Steps, ASpikeAtAnEdgeBelongsToTheLaterBin) {
  std::vector<double> edges;
  for (int k = 0; k < 50; ++k) edges.push_back(k * 0.02);  // as a file's decimal times are
  const SteppedRecording s = cut(second({edges}));
  ASSERT_EQ(s.steps(), 50);
  for (std::int64_t k = 0; k < 50; ++k) {
    ASSERT_EQ(s.step_events(k).size(), 1U) << k;
    EXPECT_EQ(s.step_events(k)[0], (Event{0, 1, k}));
  }
}

RC_GTEST_PROP(Steps, EdgesHoldFarFromTheOriginToo, ()) {
  const auto start = *rc::gen::inRange(0, 1000000);
  const auto bin = *rc::gen::inRange(0, 100);
  Recording r = second({{start * 0.02 + bin * 0.005}});
  r.units[0].observed = {{start * 0.02, start * 0.02 + 1}};
  r.behavior.clear();
  StepOptions options;
  options.bin_ms = 5;
  const SteppedRecording s = cut(r, options);
  RC_ASSERT(s.events.size() == 1U);
  RC_ASSERT(s.events[0].bin == bin);
}

TEST(Steps, SpikesOfOneBinAreMergedAndSortedByUnit) {
  StepOptions options;
  options.bin_ms = 5;
  options.unit_ids = {"1", "0"};
  const SteppedRecording s = cut(second({{0.001, 0.002, 0.012}, {0.003, 0.0131}}), options);
  const std::vector<Event> expected = {{0, 1, 0}, {1, 2, 0}, {0, 1, 2}, {1, 1, 2}};
  ASSERT_EQ(s.step_events(0).size(), 4U);
  EXPECT_TRUE(std::equal(expected.begin(), expected.end(), s.step_events(0).begin()));
}

RC_GTEST_PROP(Steps, EverySpikeInsideIsCountedOnce, ()) {
  auto ticks = *rc::gen::container<std::vector<int>>(rc::gen::inRange(-200, 1200));
  std::sort(ticks.begin(), ticks.end());
  std::vector<double> spikes;
  std::map<std::int64_t, int> expected;
  for (const int tick : ticks) {
    spikes.push_back(tick / 1000.0);
    if (tick >= 0 && tick < 1000) ++expected[tick / 20];
  }
  const SteppedRecording s = cut(second({spikes}));
  std::map<std::int64_t, int> counted;
  for (const Event& event : s.events) counted[event.bin] += event.value;
  RC_ASSERT(counted == expected);
  RC_ASSERT(s.indptr.back() == static_cast<std::int64_t>(s.events.size()));
}

TEST(Steps, AGapIsARunOfEmptyUnobservedSteps) {
  Recording r = second({{0.01, 100.01}});
  r.units[0].observed = {{0, 0.1}, {100, 100.1}};
  r.trials = {{0, {0, 0.1}, "train", {}}, {1, {100, 100.1}, "val", {}}};
  const SteppedRecording s = cut(r);
  ASSERT_EQ(s.steps(), 5005);
  for (std::int64_t k = 5; k < 5000; ++k) {
    EXPECT_TRUE(s.step_events(k).empty());
    EXPECT_EQ(s.observed[static_cast<std::size_t>(k)], 0);
    EXPECT_EQ(s.trial[static_cast<std::size_t>(k)], -1);
  }
  EXPECT_EQ(s.observed[4], 1);
  EXPECT_EQ(s.observed[5000], 1);
  EXPECT_EQ(s.trial[5000], 1);
  EXPECT_EQ(s.step_events(5000).size(), 1U);
}

TEST(Steps, TheOriginIsAWholeStepAtOrBeforeTheFirstObservedMoment) {
  Recording r = second({{}});
  r.units[0].observed = {{0.05, 1}};
  const SteppedRecording s = cut(r);
  EXPECT_DOUBLE_EQ(s.origin_s, 0.04);
  EXPECT_EQ(s.observed[0], 0) << "half of it was not recorded";
  EXPECT_EQ(s.observed[1], 1);
  EXPECT_EQ(s.steps(), 48);
}

TEST(Steps, ObservedIsTheUnionOverUnits) {
  Recording r = second({{}, {}});
  r.units[0].observed = {{0, 0.5}};
  r.units[1].observed = {{0.5, 1}};
  const SteppedRecording s = cut(r);
  for (const std::uint8_t observed : s.observed) EXPECT_EQ(observed, 1);
}

TEST(Steps, TheTargetIsInterpolatedAtTheStepsCentre) {
  const SteppedRecording s = cut(second({{}}));
  ASSERT_EQ(s.dims, 2U);
  EXPECT_EQ(s.output_names, (std::vector<std::string>{"hand_vel_x", "hand_vel_y"}));
  EXPECT_EQ(s.output_unit, "mm/s");
  for (std::size_t k = 0; k < 50; ++k) {
    EXPECT_NEAR(s.target[2 * k], 0.02 * static_cast<double>(k) + 0.01, 1e-6);
    EXPECT_NEAR(s.target[2 * k + 1], -2 * s.target[2 * k], 1e-6);
  }
}

TEST(Steps, TheTargetIsLookedUpByTimestampAcrossAGap) {
  Recording r = second({{}});
  auto& vel = r.behavior[0];
  vel.dims = 1;
  vel.times_s = {0, 0.01, 0.02, 0.03, 0.90, 0.91, 0.92, 0.93};
  vel.values = {0, 1, 2, 3, 90, 91, 92, 93};
  const SteppedRecording s = cut(r);
  EXPECT_NEAR(s.target[0], 1, 1e-6);
  EXPECT_NEAR(s.target[1], 3, 1e-6) << "the last sample before the gap, exactly at its time";
  for (std::size_t k = 2; k < 45; ++k) EXPECT_TRUE(std::isnan(s.target[k])) << k;
  EXPECT_NEAR(s.target[45], 91, 1e-5);
  EXPECT_TRUE(std::isnan(s.target[49]));
}

TEST(Steps, ATargetThatIsNaNStaysSoAndIsNotScored) {
  Recording r = second({{}});
  r.behavior[0].values[2 * 11 + 1] = std::nanf("");  // t = 0.11, the centre of step 5
  const SteppedRecording s = cut(r);
  const auto mask = scored_steps(s, r, "all");
  ASSERT_TRUE(mask) << mask.error().message;
  EXPECT_EQ((*mask)[5], 0);
  EXPECT_EQ(std::count(mask->begin(), mask->end(), 1), 49);
}

TEST(Steps, ScoredStepsLieWhollyInTrialsOfTheSplit) {
  Recording r = second({{}});
  r.trials = {{0, {0.05, 0.3}, "train", {}}, {1, {0.4, 0.6}, "val", {}}};
  const SteppedRecording s = cut(r);
  const auto val = scored_steps(s, r, "val");
  ASSERT_TRUE(val);
  EXPECT_EQ(std::count(val->begin(), val->end(), 1), 10);
  EXPECT_EQ((*val)[20], 1);
  const auto both = scored_steps(s, r, "train,val");
  ASSERT_TRUE(both);
  EXPECT_EQ(std::count(both->begin(), both->end(), 1), 22) << "0.06 to 0.30 and 0.40 to 0.60";
  const auto wrong = scored_steps(s, r, "test");
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("train, val"), std::string::npos);
}

TEST(Steps, MissingUnitsAreListedUnlessAllowed) {
  StepOptions options;
  options.unit_ids = {"7", "0", "9"};
  const auto refused = step_recording(second({{0.01}}), options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::not_found);
  EXPECT_NE(refused.error().message.find("7, 9"), std::string::npos) << refused.error().message;
  options.allow_missing_units = true;
  const SteppedRecording s = cut(second({{0.01}}), options);
  ASSERT_EQ(s.events.size(), 1U);
  EXPECT_EQ(s.events[0].unit, 1);
}

TEST(Steps, WrongOptionsAreErrors) {
  const Recording r = second({{}});
  const auto expect_error = [&](auto&& change, ErrorCode code) {
    StepOptions options;
    change(options);
    const auto stepped = step_recording(r, options);
    ASSERT_FALSE(stepped);
    EXPECT_EQ(stepped.error().code, code) << stepped.error().message;
  };
  const auto wrong = ErrorCode::invalid_argument;
  expect_error([](StepOptions& o) { o.bin_ms = 7; }, wrong);
  expect_error([](StepOptions& o) { o.bin_ms = 0; }, wrong);
  expect_error([](StepOptions& o) { o.step_ms = std::nan(""); }, wrong);
  expect_error([](StepOptions& o) { o.unit_ids = {"0", "0"}; }, wrong);
  expect_error([](StepOptions& o) { o.target = "no such series"; }, ErrorCode::not_found);
  expect_error([](StepOptions& o) { o.bin_ms = o.step_ms = 1e-6; }, ErrorCode::too_large);
}

TEST(Steps, ARecordingWithoutBehaviourIsCutButNotScored) {
  Recording r = second({{0.01}});
  r.behavior.clear();
  const SteppedRecording s = cut(r);
  EXPECT_EQ(s.dims, 0U);
  EXPECT_FALSE(scored_steps(s, r, "all"));
}

TEST(R2, IsOneForTheTruthAndZeroForItsMean) {
  const std::vector<float> truth = {1, 10, 2, 30, 3, 50}, mean = {2, 30, 2, 30, 2, 30};
  const std::vector<std::uint8_t> mask = {1, 1, 1};
  EXPECT_DOUBLE_EQ(r2_score(truth, truth, mask, 2).mean, 1);
  EXPECT_DOUBLE_EQ(r2_score(truth, mean, mask, 2).mean, 0);
}

TEST(R2, CountsMaskedRowsOnlyAndAveragesDimensions) {
  const std::vector<float> truth = {0, 0, 2, 2, 99, std::nanf("")};
  const std::vector<float> decoded = {0, 1, 2, 1, -5, 0};
  const R2 score = r2_score(truth, decoded, std::vector<std::uint8_t>{1, 1, 0}, 2);
  EXPECT_EQ(score.rows, 2);
  EXPECT_DOUBLE_EQ(score.per_dim[0], 1);
  EXPECT_DOUBLE_EQ(score.per_dim[1], 0);
  EXPECT_DOUBLE_EQ(score.mean, 0.5);
}

TEST(R2, IsNotANumberWithNothingToScore) {
  const std::vector<float> truth = {1, 2};
  EXPECT_TRUE(std::isnan(r2_score(truth, truth, std::vector<std::uint8_t>{0, 0}, 1).mean));
  EXPECT_TRUE(std::isnan(r2_score(truth, truth, std::vector<std::uint8_t>{1, 0}, 1).mean));
}

}  // namespace
}  // namespace cortex
