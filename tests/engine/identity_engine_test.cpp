// The engine around a model that decodes nothing.
#include <cortex/engine.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace cortex {
namespace {

std::unique_ptr<Engine> identity(const char* name) {
  EngineOptions options;
  options.model_path = name;
  options.device = "cpu";
  return Engine::create(options).value_or_throw();
}

std::vector<Event> events_of(std::int64_t step) {
  return {{.unit = static_cast<std::int32_t>(step % 90), .value = 1, .bin = step * 4 + 1},
          {.unit = 91, .value = 2, .bin = step * 4 + 3}};
}

std::vector<float> step(Engine& engine, SessionId session, std::int64_t n) {
  const auto events = events_of(n);
  return engine.step({.session = session, .sequence = n, .events = events})
      .value_or_throw()
      .behavior;
}

TEST(IdentityEngine, AnswersEveryStepWithItsSpikesAndAMix) {
  const auto engine = identity("identity");
  EXPECT_EQ(engine->model().preset, "identity");
  EXPECT_EQ(engine->model().parameters, 0);
  const auto session = engine->open_session({}).value_or_throw();
  std::vector<float> last;
  for (int n = 0; n < 20; ++n) {
    const auto answer = step(*engine, session.id, n);
    ASSERT_EQ(answer.size(), 2U);
    EXPECT_EQ(answer[0], 3);
    EXPECT_NE(answer, last);
    last = answer;
  }
}

TEST(IdentityEngine, AResumedSessionAnswersAsAnUninterruptedOne) {
  const auto engine = identity("identity");
  const auto whole = engine->open_session({}).value_or_throw();
  std::vector<float> expected;
  for (int n = 0; n <= 30; ++n) expected = step(*engine, whole.id, n);
  const std::int64_t first = 30 - engine->model().context_steps + 1;
  const auto resumed = engine->open_session({.first_step = first}).value_or_throw();
  std::vector<float> answer;
  for (std::int64_t n = first; n <= 30; ++n) answer = step(*engine, resumed.id, n);
  EXPECT_EQ(answer, expected);
}

/// What the compute thread does, in order: the batch of each answer, and 0 when one is answered.
struct BatchLog final : StepSink {
  void on_step(const StepAnswer& answer) noexcept override { entries.push_back(answer.batch.id); }
  std::vector<std::uint64_t> entries;
};

TEST(IdentityEngine, SaysWhenTheAnswersOfABatchAreComplete) {
  BatchLog log;
  EngineOptions options;
  options.model_path = "identity";
  options.device = "cpu";
  options.max_sessions = 8;
  options.on_batch_answered = [&log] { log.entries.push_back(0); };
  auto engine = Engine::create(options).value_or_throw();
  std::vector<SessionId> sessions;
  sessions.reserve(static_cast<std::size_t>(options.max_sessions));
  for (int s = 0; s < options.max_sessions; ++s)
    sessions.push_back(engine->open_session({}).value_or_throw().id);
  for (int n = 0; n < 50; ++n)
    for (const SessionId id : sessions)
      while (!engine->submit({.session = id, .sequence = n, .events = events_of(n)}, log))
        std::this_thread::yield();
  engine.reset();
  std::size_t answers = 0;
  for (std::size_t i = 0; i < log.entries.size(); ++i) {
    if (log.entries[i] == 0) continue;
    ++answers;
    ASSERT_LT(i + 1, log.entries.size()) << "nothing follows the last batch";
    const std::uint64_t next = log.entries[i + 1];
    EXPECT_TRUE(next == 0 || next == log.entries[i])
        << "batch " << next << " follows " << log.entries[i] << " at once";
  }
  EXPECT_EQ(answers, sessions.size() * 50);
}

TEST(IdentityEngine, AWindowIsAFunctionOfItsEvents) {
  const auto engine = identity("identity-window");
  EXPECT_EQ(engine->model().kind, "window");
  const auto events = events_of(0);
  const auto first = engine->decode({.events = events}).value_or_throw();
  const auto again = engine->decode({.events = events}).value_or_throw();
  EXPECT_EQ(first.behavior, again.behavior);
  EXPECT_EQ(first.behavior[0], 3);
}

}  // namespace
}  // namespace cortex
