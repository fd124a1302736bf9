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

TEST(Ridge, SmoothsCountsWithAGaussian) {
  Recording recording = testing::synthetic_recording(4, 60, 3);
  StepOptions options;
  options.target = "hand_vel";
  const SteppedRecording stepped = *step_recording(recording, options);
  // Of one step's standard deviation: exp(-k^2 / 2), k from -3 to 3, over their sum.
  const double weights[] = {0.0044332, 0.0540056, 0.2420362, 0.3990503,
                            0.2420362, 0.0540056, 0.0044332};
  BehaviorSeries& vel = recording.behavior.front();
  vel.times_s.clear();
  vel.values.clear();
  for (std::int64_t s = 0; s < stepped.steps(); ++s) {
    double smooth[2] = {0, 0};
    for (std::int64_t k = -3; k <= 3; ++k) {
      if (s + k < 0 || s + k >= stepped.steps()) continue;
      for (const Event& e : stepped.step_events(s + k))
        if (e.unit < 2) smooth[e.unit] += weights[k + 3] * e.value;
    }
    vel.times_s.push_back(stepped.origin_s + (static_cast<double>(s) + 0.5) * 0.02);
    for (const double v : smooth) vel.values.push_back(static_cast<float>(10 * v));
  }
  RidgeOptions ridge_options;
  ridge_options.lags = 1;
  ridge_options.threads = 1;
  const auto plain = ridge(ridge_options, {recording}, {recording});
  ASSERT_TRUE(plain) << plain.error().message;
  EXPECT_LT(plain->r2, 0.9);
  ridge_options.smooth_ms = 20;
  const auto smooth = ridge(ridge_options, {recording}, {recording});
  ASSERT_TRUE(smooth) << smooth.error().message;
  EXPECT_GT(smooth->r2, 0.999);
}

TEST(Ridge, UnderNlbThePenaltyIsChosenByFiveInnerFolds) {
  Recording recording = testing::synthetic_recording(12, 60, 3);
  for (std::size_t i = 0; i < recording.trials.size(); ++i) {
    Trial& trial = recording.trials[i];
    trial.columns["move_onset_time"] = trial.span.start_s + 0.25;
    if (i % 5 != 0) continue;
    // The first inner fold's behaviour has nothing to do with its spikes.
    BehaviorSeries& vel = recording.behavior.front();
    for (std::size_t k = 0; k < vel.times_s.size(); ++k)
      if (vel.times_s[k] >= trial.span.start_s && vel.times_s[k] < trial.span.stop_s)
        for (std::size_t d = 0; d < vel.dims; ++d)
          vel.values[k * vel.dims + d] = (k / 20 + d) % 2 == 0 ? 150.0f : -150.0f;
  }
  RidgeOptions options;
  options.threads = 1;
  options.lags = 3;
  const auto one = ridge(options, {recording}, {recording});
  ASSERT_TRUE(one) << one.error().message;
  EXPECT_LT(one->inner_r2, 0.1);
  options.data.protocol.protocol = Protocol::nlb;
  options.data.protocol.from_ms = -150;
  options.data.protocol.to_ms = 100;
  const auto five = ridge(options, {recording}, {recording});
  ASSERT_TRUE(five) << five.error().message;
  EXPECT_GT(five->inner_r2, 0.3);
  EXPECT_LE(five->alpha, 1);
}

TEST(Ridge, BadInputIsNamed) {
  const std::vector<Recording> recordings = {testing::synthetic_recording(2, 4, 3)};
  const auto field = [&](const RidgeOptions& options) {
    const auto report = ridge(options, recordings, recordings);
    return report ? std::string() : report.error().field;
  };
  RidgeOptions options;
  options.lags = 0;
  EXPECT_EQ(field(options), "lags");
  options.lags = 1;
  options.smooth_ms = -1;
  EXPECT_EQ(field(options), "smooth-ms");
  options.smooth_ms = 50;
  options.out = "unused";
  EXPECT_EQ(field(options), "smooth-ms");
}

}  // namespace
}  // namespace cortex::train
