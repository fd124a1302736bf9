#include "data/protocol.h"

#include <gtest/gtest.h>

#include <cmath>

namespace cortex {
namespace {

/// Trials of 1 s every 2 s with their onset 0.305 s after the start; behaviour at 1 kHz is time.
Recording session(int trials) {
  Recording r;
  r.path = "memory.nwb";
  Unit unit;
  unit.id = "0";
  unit.observed.push_back({0, 2.0 * trials});
  unit.spike_times_s = {0.5};
  r.units.push_back(unit);
  BehaviorSeries vel;
  vel.name = "hand_vel";
  vel.dims = 1;
  for (int i = 0; i <= 2000 * trials; ++i) {
    vel.times_s.push_back(i * 1e-3);
    vel.values.push_back(static_cast<float>(i * 1e-3));
  }
  r.behavior.push_back(vel);
  for (int i = 0; i < trials; ++i)
    r.trials.push_back({i,
                        {2.0 * i, 2.0 * i + 1},
                        i % 2 ? "val" : "train",
                        {{"move_onset_time", 2.0 * i + 0.305}}});
  return r;
}

struct Cut {
  SteppedRecording stepped;
  ScoredSteps scored;
};

Cut cut(const Recording& recording, Protocol protocol, double offset_ms, double step_ms = 20) {
  StepOptions step;
  step.bin_ms = step.step_ms = step_ms;
  step.target_offset_ms = offset_ms;
  Cut out{*step_recording(recording, step), {}};
  ProtocolOptions options;
  options.protocol = protocol;
  auto scored = protocol_steps(out.stepped, recording, "val", offset_ms, options);
  EXPECT_TRUE(scored) << scored.error().message;
  out.scored = *std::move(scored);
  return out;
}

TEST(Protocols, CausalIsEveryObservedStepOfTheTrials) {
  const Recording recording = session(6);
  const Cut c = cut(recording, Protocol::causal, -10);
  EXPECT_EQ(c.scored.mask, *scored_steps(c.stepped, recording, "val"));
  for (std::size_t s = 0; s < c.scored.mask.size(); ++s)
    EXPECT_EQ(c.scored.trial[s], c.scored.mask[s] ? c.stepped.trial[s] : -1);
}

TEST(Protocols, OnsetIsOneStepATrialWithTheVelocityAtTheOnset) {
  const Recording recording = session(6);
  // Answers half a second after the fact lie outside their trial's first half, but are its own.
  for (const double offset : {-10.0, -500.0, 0.0}) {
    const Cut c = cut(recording, Protocol::onset, offset);
    int found = 0;
    for (std::size_t s = 0; s < c.scored.mask.size(); ++s) {
      if (!c.scored.mask[s]) continue;
      ++found;
      const double onset = recording.trials[static_cast<std::size_t>(c.scored.trial[s])].columns.at(
          "move_onset_time");
      EXPECT_NEAR(c.stepped.target[s], onset, 0.0101) << offset;
    }
    EXPECT_EQ(found, 3) << offset;
  }
}

TEST(Protocols, NlbIsTheSpanAroundTheOnsetWithItsLag) {
  const Recording recording = session(6);
  const Cut c = cut(recording, Protocol::nlb, -2.5, 5);
  int found = 0;
  for (std::size_t s = 0; s < c.scored.mask.size(); ++s) {
    if (!c.scored.mask[s]) continue;
    ++found;
    const double onset =
        recording.trials[static_cast<std::size_t>(c.scored.trial[s])].columns.at("move_onset_time");
    EXPECT_GE(c.stepped.target[s], onset - 0.250 + 0.080 - 1e-4);
    EXPECT_LT(c.stepped.target[s], onset + 0.450 + 0.080 - 1e-4);
  }
  EXPECT_EQ(found, 3 * 140);  // 700 ms of 5 ms bins
}

TEST(Protocols, NoStepIsScoredWhoseTargetBelongsToAnotherTrial) {
  Recording recording = session(6);
  // The next trial begins 100 ms after the onset: most of the span is not the trial's own.
  for (Trial& trial : recording.trials)
    if (trial.split == "val") trial.span.stop_s = trial.span.start_s + 0.405;
  std::vector<Trial> more;
  for (const Trial& trial : recording.trials)
    if (trial.split == "val")
      more.push_back({trial.id + 100, {trial.span.stop_s, trial.span.stop_s + 1}, "train", {}});
  recording.trials.insert(recording.trials.end(), more.begin(), more.end());
  const Cut c = cut(recording, Protocol::nlb, -10);
  int found = 0;
  for (std::size_t s = 0; s < c.scored.mask.size(); ++s) {
    if (!c.scored.mask[s]) continue;
    ++found;
    for (const Trial& trial : more)
      EXPECT_FALSE(c.stepped.target[s] > trial.span.start_s + 1e-3 &&
                   c.stepped.target[s] < trial.span.stop_s - 1e-3);
  }
  EXPECT_GT(found, 0);
}

TEST(Protocols, BadInputIsNamed) {
  Recording recording = session(4);
  StepOptions step;
  const SteppedRecording stepped = *step_recording(recording, step);
  ProtocolOptions options;
  options.protocol = Protocol::nlb;
  options.to_ms = options.from_ms;
  EXPECT_EQ(protocol_steps(stepped, recording, "val", -10, options).error().field, "protocol");
  options = {};
  options.protocol = Protocol::onset;
  options.align = "go_cue";
  const auto absent = protocol_steps(stepped, recording, "val", -10, options);
  ASSERT_FALSE(absent);
  EXPECT_NE(absent.error().message.find("go_cue"), std::string::npos);
  EXPECT_FALSE(parse_protocol("easy"));
  EXPECT_EQ(*parse_protocol("nlb"), Protocol::nlb);
}

}  // namespace
}  // namespace cortex
