#include "train/ridge.h"

#include <gtest/gtest.h>

#include "data/steps.h"
#include "train/synthetic.h"

namespace cortex::train {
namespace {

TEST(Ridge, RecoversALinearRuleAcrossGaps) {
  Recording recording = testing::synthetic_recording(4, 60, 3);
  StepOptions options;
  options.target = "hand_vel";
  const SteppedRecording stepped = *step_recording(recording, options);
  // velocity(s) = (2 c0(s) - c1(s-1) + 3, 0.5 c2(s) + c3(s-1)), sampled where targets are taken.
  BehaviorSeries& vel = recording.behavior.front();
  vel.times_s.clear();
  vel.values.clear();
  const auto counts = [&](std::int64_t s, int unit) {
    float n = 0;
    if (s >= 0)
      for (const Event& e : stepped.step_events(s)) n += e.unit == unit ? e.value : 0;
    return n;
  };
  for (std::int64_t s = 0; s < stepped.steps(); ++s) {
    vel.times_s.push_back(stepped.origin_s + (static_cast<double>(s) + 0.5) * 0.02);
    vel.values.push_back(2 * counts(s, 0) - counts(s - 1, 1) + 3);
    vel.values.push_back(0.5f * counts(s, 2) + counts(s - 1, 3));
  }
  RidgeOptions ridge_options;
  ridge_options.lags = 2;
  ridge_options.threads = 1;
  // Val spikes are part of no training row, so the rule must hold on train trials alone.
  const auto report = ridge(ridge_options, {recording}, {recording});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_GT(report->r2, 0.999);
  ASSERT_EQ(report->weights.size(), 18u);
  const std::vector<double> rule = {2, 0, 0, 0, 0, 0.5, 0, 0, 0, 0, -1, 0, 0, 0, 0, 1, 3, 0};
  for (std::size_t i = 0; i < rule.size(); ++i) EXPECT_NEAR(report->weights[i], rule[i], 0.02) << i;
}

TEST(Ridge, BadInputIsNamed) {
  RidgeOptions options;
  options.lags = 0;
  const std::vector<Recording> recordings = {testing::synthetic_recording(2, 4, 3)};
  const auto report = ridge(options, recordings, recordings);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().field, "lags");
}

}  // namespace
}  // namespace cortex::train
