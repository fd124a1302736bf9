// The engine around a model that decodes nothing.
#include <cortex/engine.h>
#include <gtest/gtest.h>

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
