#include "data/simulator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "data/nwb.h"
#include "data/statistics.h"
#include "recordings.h"

namespace cortex {
namespace {

Recording make(const SimulatorOptions& options) { return simulate(options).value_or_throw(); }

TEST(Simulator, TheSameSeedsGiveTheSameRecording) {
  const SimulatorOptions options{.units = 8, .minutes = 0.5};
  testing::expect_same(make(options), make(options));
}

TEST(Simulator, FewerUnitsAreAPrefixOfMore) {
  Recording many = make({.units = 12, .minutes = 0.5});
  many.units.resize(5);
  testing::expect_same(make({.units = 5, .minutes = 0.5}), [&] { return many; }());
}

TEST(Simulator, AnotherSessionMovesOtherwiseAndKeepsTheUnits) {
  const Recording a = make({.session_seed = 1, .units = 40, .minutes = 2});
  const Recording b = make({.session_seed = 2, .units = 40, .minutes = 2});
  EXPECT_NE(a.behavior[0].values, b.behavior[0].values);
  double x = 0, y = 0, xx = 0, yy = 0, xy = 0;
  for (std::size_t u = 0; u < 40; ++u) {
    EXPECT_NE(a.units[u].spike_times_s, b.units[u].spike_times_s);
    EXPECT_EQ(a.units[u].held_out, b.units[u].held_out);
    const double p = std::log(1.0 + static_cast<double>(a.units[u].spike_times_s.size()));
    const double q = std::log(1.0 + static_cast<double>(b.units[u].spike_times_s.size()));
    x += p, y += q, xx += p * p, yy += q * q, xy += p * q;
  }
  const double correlation = (40 * xy - x * y) / std::sqrt((40 * xx - x * x) * (40 * yy - y * y));
  EXPECT_GT(correlation, 0.9) << "rates are the population's";
  const Recording c = make({.population_seed = 2, .session_seed = 1, .units = 40, .minutes = 2});
  EXPECT_EQ(a.behavior[0].values, c.behavior[0].values) << "movement is the session's";
  EXPECT_NE(a.units[0].spike_times_s, c.units[0].spike_times_s);
}

TEST(Simulator, NoUnitFiresTwiceWithinTwoMilliseconds) {
  const Recording r = make({.units = 48, .minutes = 1});
  std::int64_t spikes = 0;
  for (const Unit& unit : r.units)
    for (std::size_t i = 1; i < unit.spike_times_s.size(); ++i, ++spikes)
      EXPECT_GE(unit.spike_times_s[i] - unit.spike_times_s[i - 1], 0.002);
  EXPECT_GT(spikes, 10000);
}

TEST(Simulator, VelocityIsTheDerivativeOfPosition) {
  const Recording r = make({.units = 1, .minutes = 0.5});
  const auto& pos = r.find_behavior("hand_pos")->values;
  const auto& vel = r.find_behavior("hand_vel")->values;
  double error = 0, power = 0;
  for (std::size_t k = 20; k + 20 < pos.size() / 2; k += 20) {
    double mean = 0;
    for (std::size_t i = k - 10; i < k + 10; ++i) mean += vel[2 * i] / 20;
    const double slope = (pos[2 * (k + 10)] - pos[2 * (k - 10)]) / 0.02;
    error += (slope - mean) * (slope - mean);
    power += slope * slope;
  }
  EXPECT_LT(error, 0.002 * power);
}

TEST(Simulator, TrialsAreOrderedAndTheirCuesLieWithin) {
  const Recording r = make({.units = 1, .minutes = 3});
  ASSERT_GT(r.trials.size(), 50U);
  double before = 0;
  std::int64_t val = 0;
  std::set<std::pair<double, double>> targets;
  for (const Trial& trial : r.trials) {
    EXPECT_GT(trial.span.start_s, before);
    EXPECT_GT(trial.columns.at("target_on_time"), trial.span.start_s);
    EXPECT_GT(trial.columns.at("go_cue_time"), trial.columns.at("target_on_time"));
    EXPECT_GT(trial.columns.at("move_onset_time"), trial.columns.at("go_cue_time"));
    EXPECT_GT(trial.span.stop_s, trial.columns.at("move_onset_time"));
    EXPECT_LE(trial.span.stop_s, 180);
    before = trial.span.stop_s;
    val += trial.split == "val" ? 1 : 0;
    targets.emplace(trial.columns.at("target_x"), trial.columns.at("target_y"));
  }
  EXPECT_NEAR(static_cast<double>(val) / static_cast<double>(r.trials.size()), 0.2, 0.03);
  EXPECT_EQ(targets.size(), r.trials.size());
}

// As recordings mark it; where minimum jerk begins there would be no velocity to decode.
TEST(Simulator, AnOnsetIsWhereTheHandHasFivePercentOfItsSpeed) {
  const Recording r = make({.units = 1, .minutes = 3});
  const auto& velocity = r.find_behavior("hand_vel")->values;
  const auto sample = [](double seconds) {
    return static_cast<std::size_t>(std::llround(seconds * 1000));
  };
  const auto speed = [&](std::size_t k) {
    return static_cast<double>(std::hypot(velocity[2 * k], velocity[2 * k + 1]));
  };
  double share = 0;
  for (const Trial& trial : r.trials) {
    double top = 0;
    for (std::size_t k = sample(trial.span.start_s); k < sample(trial.span.stop_s); ++k)
      top = std::max(top, speed(k));
    const std::size_t onset = sample(trial.columns.at("move_onset_time"));
    share += speed(onset) / top / static_cast<double>(r.trials.size());
    EXPECT_GT(speed(onset + 100), 0.15 * top) << onset;  // on its way
    EXPECT_LT(speed(onset - 60), 0.15 * top) << onset;   // at rest but for tremor
  }
  EXPECT_NEAR(share, 0.05, 0.01);
}

TEST(Simulator, HoldsOutTheWantedShareOfUnits) {
  for (const double share : {0.0, 0.25, 0.5, 1.0}) {
    const Recording r = make({.units = 96, .minutes = 0.1, .held_out_fraction = share});
    const auto held = std::count_if(r.units.begin(), r.units.end(),
                                    [](const Unit& unit) { return unit.held_out; });
    EXPECT_NEAR(static_cast<double>(held), 96 * share, 2);
  }
}

TEST(Simulator, AFileOfItReadsBackTheSame) {
  const testing::TempDir folder;
  const Recording r = make({.units = 6, .minutes = 0.5});
  ASSERT_TRUE(write_nwb(folder.file("s.nwb"), r));
  const auto read = read_nwb(folder.file("s.nwb"));
  ASSERT_TRUE(read) << read.error().message;
  testing::expect_same(r, *read);
}

TEST(Simulator, OptionsOutOfRangeAreErrors) {
  for (const SimulatorOptions& options :
       {SimulatorOptions{.units = 0}, SimulatorOptions{.minutes = 0},
        SimulatorOptions{.minutes = std::nan("")}, SimulatorOptions{.held_out_fraction = 1.5},
        SimulatorOptions{.val_fraction = -0.1}}) {
    const auto recording = simulate(options);
    ASSERT_FALSE(recording);
    EXPECT_EQ(recording.error().code, ErrorCode::invalid_argument);
    EXPECT_FALSE(recording.error().field.empty());
  }
}

struct Range {
  const char* what;
  double low, high;
};

// What the genuine recordings span, from docs/simulator.md.
TEST(Simulator, ItsStatisticsLieWithinThoseOfGenuineRecordings) {
  const RecordingStatistics s = describe(make({.units = 96, .minutes = 5}));
  ASSERT_TRUE(s.fano && s.drift_per_10min && s.trial_s && s.speed_p99_mm_s);
  const auto within = [](double value, const Range& range) {
    EXPECT_GE(value, range.low) << range.what;
    EXPECT_LE(value, range.high) << range.what;
  };
  within(s.rate_hz.p5, {"rate p5", 0, 0.92});
  within(s.rate_hz.median, {"rate median", 0.404, 18.9});
  within(s.rate_hz.p95, {"rate p95", 10.5, 51.3});
  within(s.fano->p5, {"fano p5", 0.886, 1.07});
  within(s.fano->median, {"fano median", 1.11, 1.48});
  within(s.fano->p95, {"fano p95", 2.27, 2.82});
  within(s.drift_per_10min->median, {"drift median", 0.119, 0.619});
  within(s.drift_per_10min->p95, {"drift p95", 0.461, 2.18});
  within(s.trial_s->median, {"trial median", 0.4, 3.4});
  within(*s.speed_p99_mm_s, {"speed p99", 303, 939});
}

TEST(Statistics, GapsAndRatesCountObservedTimeOnly) {
  Recording r = testing::tiny_recording();
  r.units[1].observed = r.units[0].observed;
  const RecordingStatistics s = describe(r);
  EXPECT_DOUBLE_EQ(s.observed_s, 1.5);
  EXPECT_EQ(s.gaps, 1);
  EXPECT_DOUBLE_EQ(s.longest_gap_s, 0.5);
  EXPECT_DOUBLE_EQ(s.mean_rate_hz, 4 / 1.5 / 2);
  EXPECT_FALSE(s.fano);
  EXPECT_FALSE(s.drift_per_10min);
}

}  // namespace
}  // namespace cortex
