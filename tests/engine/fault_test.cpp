#include <cmath>
#include <limits>
#include <stdexcept>

#include "virtual_engine.h"

/// What goes wrong inside the engine, done to it on purpose, under a clock that tests move.
namespace cortex::testing {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

using Steps = std::vector<std::vector<Event>>;

class EngineFaults : public ::testing::Test {
 protected:
  ModelConfig config_ = tiny_stream_config();
  ModelFile file_ = lively_stream_model(config_, 31);

  Steps random_steps(int n) {
    std::mt19937_64 random(7);
    Steps steps;
    for (int i = 0; i < n; ++i) steps.push_back(random_step(random, config_, i, 6));
    return steps;
  }
  /// What an undisturbed session answers.
  std::vector<std::vector<float>> replay(const Steps& steps) {
    VirtualEngine engine(file_);
    const SessionId id = engine->open_session({}).value_or_throw().id;
    std::vector<std::vector<float>> out;
    for (std::size_t n = 0; n < steps.size(); ++n)
      out.push_back(
          engine
              ->step({.session = id, .sequence = static_cast<std::int64_t>(n), .events = steps[n]})
              .value_or_throw()
              .behavior);
    return out;
  }
};

TEST_F(EngineFaults, AComputeThreadHeldUpFor100MsLosesDeadlinesAndNoStep) {
  const Steps steps = random_steps(12);
  const auto want = replay(steps);
  VirtualEngine engine(file_, {.max_queued_steps = 16});
  const SessionId id = engine->open_session({}).value_or_throw().id;
  KeepingSink sink;
  const auto submit = [&](std::size_t n) {
    ASSERT_TRUE(engine->submit({.session = id,
                                .sequence = static_cast<std::int64_t>(n),
                                .events = steps[n],
                                .deadline_ns = engine.in_ms(20),
                                .best_effort = n % 2 == 0},
                               sink));
  };
  engine.hold_in_forward([&] { submit(0); });
  for (std::size_t n = 1; n < 6; ++n) {
    engine.clock().advance(20'000'000);
    submit(n);
  }
  engine.release();
  sink.wait(6);
  for (std::size_t n = 6; n < steps.size(); ++n) {
    engine.clock().advance(20'000'000);
    submit(n);
    sink.wait(n + 1);
  }
  const auto& kept = sink.wait(steps.size());
  for (std::size_t n = 0; n < steps.size(); ++n) {
    EXPECT_EQ(kept[n].step.sequence, static_cast<std::int64_t>(n));
    const StepStatus lost = n % 2 == 0 ? StepStatus::late : StepStatus::refused;
    // The clock stands at 100 ms when the first five are answered, which were due by then or
    // before; the sixth is due at 120.
    EXPECT_EQ(kept[n].step.status, n < 4 ? lost : StepStatus::fresh) << n;
    const bool withheld = kept[n].step.status == StepStatus::refused;
    EXPECT_EQ(kept[n].behavior, withheld ? std::vector<float>{} : want[n]) << n;
  }
}

TEST_F(EngineFaults, WindowsThatADelayMakesLateAreGivenUpUnlessTheyAskedOtherwise) {
  VirtualEngine engine(tiny_window_model());
  KeepingSink first, hopeless, patient, later;
  const std::vector<Event> events = {{3, 1, 10}};
  const auto submit = [&](KeepingSink& sink, double ms, bool best_effort) {
    return bool(engine->submit(
        WindowRequest{
            .events = events, .deadline_ns = engine.in_ms(ms), .best_effort = best_effort},
        sink));
  };
  engine.hold_in_forward([&] { ASSERT_TRUE(submit(first, 200, false)); });
  ASSERT_TRUE(submit(hopeless, 50, false));
  ASSERT_TRUE(submit(patient, 50, true));
  ASSERT_TRUE(submit(later, 190, false));
  engine.clock().advance(100'000'000);
  engine.release();
  EXPECT_FALSE(first.wait(1)[0].error);
  const auto& given_up = hopeless.wait(1)[0];
  ASSERT_TRUE(given_up.error);
  EXPECT_EQ(given_up.error->code, ErrorCode::deadline_exceeded);
  EXPECT_EQ(given_up.window.batch.id, 0U) << "it was in no batch";
  EXPECT_FALSE(patient.wait(1)[0].error);
  EXPECT_FALSE(later.wait(1)[0].error);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.shed, 1);
  EXPECT_EQ(stats.late, 1);
  EXPECT_EQ(stats.refused, 1);
}

TEST_F(EngineFaults, AWindowWhoseOwnComputationTookTooLongIsWithheldAtTheHandOver) {
  VirtualEngine engine(tiny_window_model());
  KeepingSink sink;
  const std::vector<Event> events = {{3, 1, 10}};
  engine.in_next_forward([&] { engine.clock().advance(100'000'000); });
  ASSERT_TRUE(
      engine->submit(WindowRequest{.events = events, .deadline_ns = engine.in_ms(50)}, sink));
  const auto& kept = sink.wait(1)[0];
  ASSERT_TRUE(kept.error);
  EXPECT_EQ(kept.error->code, ErrorCode::deadline_exceeded);
  EXPECT_TRUE(kept.behavior.empty());
  EXPECT_EQ(engine->stats().withheld, 1);
}

TEST_F(EngineFaults, AJumpOfTheClockLosesDeadlinesAndNothingElse) {
  const Steps steps = random_steps(9);
  const auto want = replay(steps);
  VirtualEngine engine(file_);
  const SessionId id = engine->open_session({}).value_or_throw().id;
  for (std::size_t n = 0; n < steps.size(); ++n) {
    if (n == 3) engine.in_next_forward([&] { engine.clock().advance(3'600'000'000'000); });
    if (n == 6) engine.in_next_forward([&] { engine.clock().advance(-3'600'000'000'000); });
    const auto got = engine
                         ->step({.session = id,
                                 .sequence = static_cast<std::int64_t>(n),
                                 .events = steps[n],
                                 .deadline_ns = engine.in_ms(20)})
                         .value_or_throw();
    EXPECT_EQ(got.status, n == 3 ? StepStatus::refused : StepStatus::fresh) << n;
    EXPECT_EQ(got.behavior, n == 3 ? std::vector<float>{} : want[n]) << n;
  }
}

TEST_F(EngineFaults, DuplicateAndSkippedStepsAreRefusedWhileOthersWaitAndChangeNothing) {
  const Steps steps = random_steps(6);
  const auto want = replay(steps);
  VirtualEngine engine(file_);
  const SessionId id = engine->open_session({}).value_or_throw().id;
  KeepingSink sink;
  const auto submit = [&](std::int64_t n) {
    return engine->submit(
        {.session = id, .sequence = n, .events = steps[static_cast<std::size_t>(n)]}, sink);
  };
  engine.hold_in_forward([&] { ASSERT_TRUE(submit(0)); });
  ASSERT_TRUE(submit(1));
  for (const std::int64_t n : {0, 1, 3, 5}) {
    const auto refused = submit(n);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::out_of_order);
    EXPECT_NE(refused.error().message.find("expects 2 next"), std::string::npos);
  }
  ASSERT_TRUE(submit(2));
  engine.release();
  sink.wait(3);
  for (std::int64_t n = 3; n < 6; ++n) {
    ASSERT_TRUE(submit(n));
    sink.wait(static_cast<std::size_t>(n) + 1);
  }
  for (std::size_t n = 0; n < 6; ++n) EXPECT_EQ(sink.wait(6)[n].behavior, want[n]) << n;
}

TEST_F(EngineFaults, AnOutputThatIsNotFiniteNeverLeavesAndTheStreamGoesOn) {
  const Steps steps = random_steps(8);
  const auto want = replay(steps);
  VirtualEngine engine(file_);
  const SessionId id = engine->open_session({}).value_or_throw().id;
  for (std::size_t n = 0; n < steps.size(); ++n) {
    const auto sequence = static_cast<std::int64_t>(n);
    if (n == 4) engine.to_next_output([](float* y) { y[1] = kNan; });
    const auto got = engine->step({.session = id, .sequence = sequence, .events = steps[n]});
    if (n != 4) {
      ASSERT_TRUE(got) << n;
      EXPECT_EQ(got->behavior, want[n]) << n;
      continue;
    }
    ASSERT_FALSE(got);
    EXPECT_EQ(got.error().code, ErrorCode::internal);
    EXPECT_EQ(got.error().field, "behavior");
    for (const std::string& part : {config_.output_names[1], std::string("step 4"),
                                    "session " + std::to_string(id), std::string("nan")})
      EXPECT_NE(got.error().message.find(part), std::string::npos) << got.error().message;
  }
  EXPECT_EQ(engine->stats().not_finite, 1);
  EXPECT_EQ(engine->close_session(id).value_or_throw().steps, 8);
}

TEST_F(EngineFaults, AWindowWhoseOutputIsNotFiniteFailsAloneInItsBatch) {
  VirtualEngine engine(tiny_window_model());
  KeepingSink first, bad, good;
  const std::vector<Event> events = {{3, 1, 10}};
  engine.hold_in_forward(
      [&] { ASSERT_TRUE(engine->submit(WindowRequest{.events = events}, first)); });
  // A batch of two is never certain; what is computed next is `bad`.
  ASSERT_TRUE(engine->submit(WindowRequest{.events = events}, bad));
  engine.release();
  first.wait(1);
  ASSERT_TRUE(engine->decode({.events = events}));
  engine.to_next_output([](float* y) { y[0] = std::numeric_limits<float>::infinity(); });
  const auto refused = engine->decode({.events = events});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::internal);
  EXPECT_EQ(refused.error().field, "behavior");
  EXPECT_TRUE(engine->decode({.events = events}));
  EXPECT_FALSE(bad.wait(1)[0].error);
}

TEST_F(EngineFaults, AStreamThatOverflowedIsAsIfNewOnceThatIsOutOfItsContext) {
  ModelFile overflowing = lively_stream_model(config_, 31);
  for (float& weight : overflowing.tensors.at("tokenizer.additive").f32()) weight *= 1e33F;
  VirtualEngine engine(overflowing);
  const SessionId id = engine->open_session({}).value_or_throw().id;
  const auto step = [&](SessionId session, std::int64_t n, std::int32_t value) {
    const std::vector<Event> events = {{2, value, n * config_.bins_per_step()}};
    return engine->step({.session = session, .sequence = n, .events = events});
  };
  ASSERT_TRUE(step(id, 0, 1));
  const auto overflow = step(id, 1, std::numeric_limits<std::int32_t>::max());
  ASSERT_FALSE(overflow);
  EXPECT_EQ(overflow.error().field, "behavior");
  const int context = engine->model().context_steps;
  for (std::int64_t n = 2; n <= 1 + context; ++n) (void)step(id, n, 1);
  const SessionId fresh = engine->open_session({.first_step = 2}).value_or_throw().id;
  for (std::int64_t n = 2; n <= 1 + context; ++n) ASSERT_TRUE(step(fresh, n, 1)) << n;
  for (std::int64_t n = 2 + context; n < 8 + context; ++n)
    EXPECT_EQ(step(id, n, 1).value_or_throw().behavior,
              step(fresh, n, 1).value_or_throw().behavior);
}

TEST_F(EngineFaults, AForwardThatThrowsLosesTheSessionsInItAndNothingElse) {
  const Steps steps = random_steps(6);
  const auto want = replay(steps);
  VirtualEngine engine(file_);
  const SessionId lost = engine->open_session({}).value_or_throw().id;
  const SessionId other = engine->open_session({}).value_or_throw().id;
  const auto step = [&](SessionId id, std::int64_t n) {
    return engine->step(
        {.session = id, .sequence = n, .events = steps[static_cast<std::size_t>(n)]});
  };
  for (std::int64_t n = 0; n < 3; ++n) {
    EXPECT_EQ(step(lost, n).value_or_throw().behavior, want[static_cast<std::size_t>(n)]);
    EXPECT_EQ(step(other, n).value_or_throw().behavior, want[static_cast<std::size_t>(n)]);
  }
  KeepingSink sink;
  engine.hold_in_forward([&] {
    ASSERT_TRUE(engine->submit({.session = lost, .sequence = 3, .events = steps[3]}, sink));
  });
  ASSERT_TRUE(engine->submit({.session = lost, .sequence = 4, .events = steps[4]}, sink));
  engine.in_next_forward([] { throw std::runtime_error("the device fell off"); });
  engine.release();
  const auto& failed = sink.wait(2);
  for (std::size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(failed[i].step.sequence, static_cast<std::int64_t>(3 + i));
    ASSERT_TRUE(failed[i].error);
    EXPECT_EQ(failed[i].error->code, ErrorCode::unavailable);
    EXPECT_NE(failed[i].error->message.find("the device fell off"), std::string::npos);
  }
  const auto after = step(lost, 5);
  ASSERT_FALSE(after);
  EXPECT_EQ(after.error().code, ErrorCode::unavailable);
  for (std::int64_t n = 3; n < 6; ++n)
    EXPECT_EQ(step(other, n).value_or_throw().behavior, want[static_cast<std::size_t>(n)]);
  EXPECT_EQ(engine->stats().failed_batches, 1);
  EXPECT_TRUE(engine->close_session(lost));
  EXPECT_TRUE(engine->close_session(other));
  EXPECT_EQ(engine->stats().pages_used, 0);
}

TEST_F(EngineFaults, AForwardThatThrowsFailsTheWindowsInItAndNothingElse) {
  for (const bool streams : {false, true}) {
    const ModelFile windows = tiny_window_model();
    VirtualEngine engine(streams ? file_ : windows);
    const std::vector<Event> events = {{3, 1, 10}};
    const auto want = engine->decode({.events = events}).value_or_throw().behavior;
    engine.in_next_forward([] { throw std::runtime_error("the device fell off"); });
    const auto failed = engine->decode({.events = events});
    ASSERT_FALSE(failed);
    EXPECT_NE(failed.error().message.find("the device fell off"), std::string::npos);
    for (int i = 0; i < 5; ++i)
      EXPECT_EQ(engine->decode({.events = events}).value_or_throw().behavior, want);
  }
}

TEST_F(EngineFaults, WithThePoolExhaustedSessionsAreRefusedAndTheOpenOnesStayExact) {
  const Steps steps = random_steps(6);
  const auto want = replay(steps);
  VirtualEngine engine(file_, {.max_sessions = 1});
  const SessionId id = engine->open_session({}).value_or_throw().id;
  for (std::int64_t n = 0; n < 6; ++n) {
    const auto refused = engine->open_session({});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
    EXPECT_EQ(refused.error().field, "sessions");
    EXPECT_EQ(
        engine->step({.session = id, .sequence = n, .events = steps[static_cast<std::size_t>(n)]})
            .value_or_throw()
            .behavior,
        want[static_cast<std::size_t>(n)]);
  }
  ASSERT_TRUE(engine->close_session(id));
  EXPECT_TRUE(engine->open_session({}));
}

}  // namespace
}  // namespace cortex::testing
