#include "record/verify.h"

#include <atomic>
#include <cstring>
#include <random>

#include "engine/engine_fixture.h"
#include "record/record_fixture.h"
#include "record/recording_engine.h"

namespace cortex::record {
namespace {

using testing::lively_stream_model;
using testing::make_engine;
using testing::random_step;
using testing::TemporaryModel;
using testing::tiny_stream_config;

class Answers final : public StepSink {
 public:
  void on_step(const StepAnswer&) noexcept override { ++answers; }
  void wait_for(std::int64_t n) const {
    while (answers < n) std::this_thread::yield();
  }
  std::atomic<std::int64_t> answers{0};
};

class Verify : public ::testing::Test {
 protected:
  static constexpr std::int64_t kSteps = 200;

  /// Two sessions at once, one with units of its own, gaps and lost deadlines.
  FlightLog recorded() {
    std::mt19937_64 random(11);
    {
      auto inner = make_engine(file_);
      auto recorder = Recorder::create(path_, inner->model(), {}, counters_).value_or_throw();
      const auto engine = record_sessions(std::move(inner), std::move(recorder), 8 * 4);
      std::vector<std::string> ids = engine->model().unit_ids;
      std::reverse(ids.begin(), ids.end());
      const SessionId one = engine->open_session({}).value_or_throw().id;
      const SessionId other =
          engine->open_session({.unit_ids = ids, .first_step = 30}).value_or_throw().id;
      Answers answers;
      std::int64_t sent = 0;
      std::int64_t step = -1;
      for (std::int64_t n = 0; n < kSteps; ++n) {
        const std::int64_t gap = n % 17 == 5 ? n % 40 : 0;
        step += gap + 1;
        const auto events = random_step(random, config_, step, 4);
        engine
            ->submit({.session = one,
                      .sequence = step,
                      .gap = gap,
                      .events = events,
                      .deadline_ns = n % 10 == 3 ? 1 : kNoDeadline},
                     answers)
            .value_or_throw();
        const auto others = random_step(random, config_, 30 + n, 4);
        engine->submit({.session = other, .sequence = 30 + n, .events = others}, answers)
            .value_or_throw();
        sent += 2;
        // Refused: it leaves no trace.
        EXPECT_FALSE(engine->submit({.session = one, .sequence = 1'000'000}, answers));
        if (n % 3 == 0) answers.wait_for(sent);
      }
      answers.wait_for(sent);
      (void)engine->close_session(one);
    }
    return read_flight_log(path_).value_or_throw();
  }

  SessionVerdict verdict(const FlightLog& log, std::size_t session) {
    const auto engine = make_engine(file_, 1, 1);
    return verify(log, log.sessions.at(session), *engine).value_or_throw();
  }

  testing::TempDir folder_;
  const std::string path_ = folder_.file("some.cortexlog");
  ModelConfig config_ = tiny_stream_config();
  TemporaryModel file_{lively_stream_model(config_, 5)};
  RecorderCounters counters_;
};

TEST_F(Verify, AReplayHasTheBitsOfTheRecording) {
  const FlightLog log = recorded();
  EXPECT_EQ(log.lost, 0);
  ASSERT_EQ(log.sessions.size(), 2U);
  EXPECT_TRUE(log.sessions[0].is_closed);
  EXPECT_FALSE(log.sessions[1].is_closed);
  const SessionVerdict one = verdict(log, 0);
  EXPECT_FALSE(one.difference) << one.difference->what;
  EXPECT_EQ(one.steps, kSteps);
  EXPECT_EQ(one.withheld, kSteps / 10);
  EXPECT_EQ(one.equal, kSteps - kSteps / 10);
  const SessionVerdict other = verdict(log, 1);
  EXPECT_FALSE(other.difference) << other.difference->what;
  EXPECT_EQ(other.equal, kSteps);
}

TEST_F(Verify, TheFirstStepThatDiffersIsNamed) {
  FlightLog log = recorded();
  RecordedStep& step = log.sessions[1].steps[50];
  auto outputs = outputs_of(step);
  std::uint32_t bits = 0;
  std::memcpy(&bits, &outputs.back(), sizeof bits);
  bits ^= 1;
  std::memcpy(&outputs.back(), &bits, sizeof bits);
  step.outputs = std::as_bytes(std::span(outputs));
  const SessionVerdict found = verdict(log, 1);
  ASSERT_TRUE(found.difference);
  EXPECT_EQ(found.difference->sequence, 80);
  EXPECT_NE(found.difference->what.find(log.model.outputs.back().name + " was "), std::string::npos)
      << found.difference->what;
  EXPECT_EQ(found.equal, 50);
}

TEST_F(Verify, AnEventThatWasChangedShowsInTheSteps) {
  FlightLog log = recorded();
  auto& steps = log.sessions[1].steps;
  std::size_t at = 20;
  while (events_of(steps[at]).empty()) ++at;
  auto events = events_of(steps[at]);
  events[0].unit = (events[0].unit + 1) % config_.unit_count();
  steps[at].events = std::as_bytes(std::span(events));
  const SessionVerdict found = verdict(log, 1);
  ASSERT_TRUE(found.difference);
  EXPECT_EQ(found.difference->sequence, steps[at].sequence);
}

TEST_F(Verify, BehindALostStepWhatDependsOnItIsUnknownAndTheRestIsCompared) {
  FlightLog log = recorded();
  auto& steps = log.sessions[1].steps;
  steps.erase(steps.begin() + 60, steps.begin() + 63);
  const SessionVerdict found = verdict(log, 1);
  EXPECT_FALSE(found.difference) << found.difference->what;
  EXPECT_EQ(found.unknown, log.model.context_steps - 1);
  EXPECT_EQ(found.equal, kSteps - 3 - found.unknown);
  EXPECT_GT(found.equal, 100);
}

TEST_F(Verify, AnswersThatAreNotInTheLogAreCounted) {
  FlightLog log = recorded();
  for (std::size_t i = 190; i < 200; ++i) log.sessions[1].steps[i].answered = false;
  const SessionVerdict found = verdict(log, 1);
  EXPECT_EQ(found.unanswered, 10);
  EXPECT_EQ(found.equal, kSteps - 10);
}

TEST_F(Verify, MoreStepsAtOnceThanExpectedAreServedAndCountedAsLost) {
  {
    auto inner = make_engine(file_);
    auto recorder = Recorder::create(path_, inner->model(), {}, counters_).value_or_throw();
    const auto engine = record_sessions(std::move(inner), std::move(recorder), 0);
    const SessionId id = engine->open_session({}).value_or_throw().id;
    EXPECT_TRUE(engine->step({.session = id, .sequence = 0}));
  }
  EXPECT_EQ(counters_.lost.value(), 2);
  EXPECT_EQ(read_flight_log(path_).value_or_throw().lost, 2);
}

}  // namespace
}  // namespace cortex::record
