#include <algorithm>
#include <stdexcept>

#include "virtual_engine.h"

/// Two batches of a stream model on their way at once, on a backend that computes as it is called:
/// the second forward runs before the answers of the first leave.
namespace cortex::testing {
namespace {

class BatchesInFlight : public ::testing::Test {
 protected:
  /// A step of session 0 is a first batch; while that is held, `more` sessions' steps become the
  /// second. `in_first` and `in_second` happen as their forwards begin.
  void run(VirtualEngine& engine, int more, const std::function<void()>& in_first,
           const std::function<void()>& in_second) {
    for (int i = 0; i <= more; ++i) ids_.push_back(engine->open_session({}).value_or_throw().id);
    engine.hold_in_forward([&] { submit(engine, 0, 0); });
    for (int i = 1; i <= more; ++i) submit(engine, i, 0);
    engine.in_next_forward([&engine, in_first, in_second] {
      engine.in_next_forward(in_second);
      in_first();
    });
    engine.release();
    sink_.wait(static_cast<std::size_t>(more) + 1);
  }
  void submit(VirtualEngine& engine, int session, std::int64_t step) {
    ASSERT_TRUE(engine->submit({.session = ids_[static_cast<std::size_t>(session)],
                                .sequence = step,
                                .events = events_of(session, step)},
                               sink_));
  }
  std::vector<Event> events_of(int session, std::int64_t step) {
    std::mt19937_64 random(static_cast<std::uint64_t>(1000 * session + step));
    return random_step(random, config_, step, 6);
  }
  /// What an engine with one batch in flight answers to a session's first steps.
  std::vector<std::vector<float>> alone(int session, int steps) {
    VirtualEngine engine(file_);
    const SessionId id = engine->open_session({}).value_or_throw().id;
    std::vector<std::vector<float>> out;
    out.reserve(static_cast<std::size_t>(steps));
    for (int n = 0; n < steps; ++n)
      out.push_back(engine->step({.session = id, .sequence = n, .events = events_of(session, n)})
                        .value_or_throw()
                        .behavior);
    return out;
  }
  /// Whose answer that is.
  int session_of(const KeepingSink::Kept& kept) const {
    return static_cast<int>(std::find(ids_.begin(), ids_.end(), kept.step.session) - ids_.begin());
  }

  ModelConfig config_ = tiny_stream_config();
  ModelFile file_ = lively_stream_model(config_, 31);
  KeepingSink sink_;
  std::vector<SessionId> ids_;
};

// Batches of as many rows as there are.
constexpr std::chrono::milliseconds kCost{2};
constexpr auto kNothing = [] {};

class HowManyInFlight : public BatchesInFlight, public ::testing::WithParamInterface<int> {};
INSTANTIATE_TEST_SUITE_P(Batches, HowManyInFlight, ::testing::Values(1, 2));

TEST_P(HowManyInFlight, WithTwoTheSecondIsLaunchedBeforeTheFirstIsAnswered) {
  VirtualEngine engine(file_, {.batches_in_flight = GetParam()}, kCost);
  std::size_t answered = 99;
  run(engine, 2, kNothing, [&] { answered = sink_.count(); });
  EXPECT_EQ(answered, GetParam() == 1 ? 1U : 0U);
  const auto& kept = sink_.wait(3);
  EXPECT_EQ(session_of(kept[0]), 0);
  EXPECT_EQ(kept[1].step.batch.id, kept[0].step.batch.id + 1);
  EXPECT_EQ(kept[1].step.batch.size, 2);
}

TEST_F(BatchesInFlight, AStepOrTwoDoNotFollowALargeBatchButWaitForOthers) {
  VirtualEngine engine(file_, {.batches_in_flight = 2}, kCost);
  for (int i = 0; i < 8; ++i) ids_.push_back(engine->open_session({}).value_or_throw().id);
  // Six make a second batch, behind which one more is ready and must wait.
  std::size_t answered = 99;
  engine.hold_in_forward([&] { submit(engine, 0, 0); });
  for (int i = 1; i < 7; ++i) submit(engine, i, 0);
  engine.in_next_forward([&] {
    engine.in_next_forward([&] {
      submit(engine, 7, 0);
      engine.in_next_forward([&] { answered = sink_.count(); });
    });
  });
  engine.release();
  sink_.wait(8);
  EXPECT_EQ(answered, 7U);
}

TEST_F(BatchesInFlight, EverySessionHasTheBitsThatItHasAlone) {
  constexpr int kSessions = 7, kSteps = 20;
  VirtualEngine engine(file_, {.batches_in_flight = 2, .max_queued_steps = kSteps}, kCost);
  for (int i = 0; i < kSessions; ++i) ids_.push_back(engine->open_session({}).value_or_throw().id);
  engine.hold_in_forward([&] { submit(engine, 0, 0); });
  for (int n = 0; n < kSteps; ++n)
    for (int i = n == 0 ? 1 : 0; i < kSessions; ++i) submit(engine, i, n);
  engine.release();
  const auto& kept = sink_.wait(kSessions * kSteps);
  std::vector<std::int64_t> next(kSessions, 0);
  std::vector<std::vector<std::vector<float>>> want;
  want.reserve(kSessions);
  for (int i = 0; i < kSessions; ++i) want.push_back(alone(i, kSteps));
  for (const auto& k : kept) {
    const auto i = static_cast<std::size_t>(session_of(k));
    ASSERT_FALSE(k.error) << k.error->message;
    EXPECT_EQ(k.step.sequence, next[i]++);
    EXPECT_EQ(k.behavior, want[i][static_cast<std::size_t>(k.step.sequence)]);
  }
}

TEST_F(BatchesInFlight, ALaunchThatFailsTakesItsOwnSessionsAndLeavesTheBatchBeforeIt) {
  VirtualEngine engine(file_, {.batches_in_flight = 2}, kCost);
  run(engine, 2, kNothing, [] { throw std::runtime_error("no room"); });
  for (const auto& kept : sink_.wait(3)) {
    EXPECT_EQ(bool(kept.error), session_of(kept) != 0);
    if (session_of(kept) == 0) {
      EXPECT_EQ(kept.behavior, alone(0, 1)[0]);
    }
  }
  EXPECT_EQ(engine->stats().failed_batches, 1);
  submit(engine, 0, 1);
  EXPECT_EQ(sink_.wait(4)[3].behavior, alone(0, 2)[1]);
}

TEST_F(BatchesInFlight, AResultThatDoesNotComeTakesItsOwnSessionsAndLeavesTheBatchBehindIt) {
  VirtualEngine engine(file_, {.batches_in_flight = 2}, kCost);
  run(
      engine, 2,
      [&] { engine.to_next_output([](float*) { throw std::runtime_error("not received"); }); },
      kNothing);
  for (const auto& kept : sink_.wait(3)) {
    EXPECT_EQ(bool(kept.error), session_of(kept) == 0);
    if (session_of(kept) != 0) {
      EXPECT_EQ(kept.behavior, alone(session_of(kept), 1)[0]);
    }
  }
  submit(engine, 1, 1);
  EXPECT_EQ(sink_.wait(4)[3].behavior, alone(1, 2)[1]);
}

TEST_F(BatchesInFlight, AnEngineThatEndsAnswersBoth) {
  {
    VirtualEngine engine(file_, {.batches_in_flight = 2}, kCost);
    run(engine, 3, kNothing, kNothing);
  }
  EXPECT_EQ(sink_.count(), 4U);
}

}  // namespace
}  // namespace cortex::testing
