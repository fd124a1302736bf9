#include <time.h>

#include <algorithm>
#include <thread>

#include "engine_fixture.h"

namespace cortex::testing {
namespace {

/// Of as many steps of a new session of each.
void expect_same_bits(Engine& one, Engine& other, const ModelConfig& config, std::int64_t steps) {
  const auto a = one.open_session({}).value_or_throw().id;
  const auto b = other.open_session({}).value_or_throw().id;
  std::mt19937_64 random(1);
  for (std::int64_t n = 0; n < steps; ++n) {
    const auto events = random_step(random, config, n, 6);
    EXPECT_EQ(
        one.step({.session = a, .sequence = n, .events = events}).value_or_throw().behavior,
        other.step({.session = b, .sequence = n, .events = events}).value_or_throw().behavior);
  }
}

TEST(EngineRealtime, EveryRightIsReportedAndARefusalIsNeverFatal) {
  const ModelConfig config = tiny_stream_config();
  const TemporaryModel file(lively_stream_model(config, 3));
  const auto plain = make_engine(file);
  EXPECT_TRUE(plain->realtime().empty());

  EngineOptions options;
  options.model_path = file.path();
  options.max_queued_windows = 4;
  options.realtime = true;
  const auto engine = Engine::create(options).value_or_throw();
  std::vector<std::string> what;
  for (const RealtimeGrant& grant : engine->realtime()) {
    what.push_back(grant.what);
    EXPECT_FALSE(grant.detail.empty()) << grant.what;
  }
  EXPECT_EQ(what, (std::vector<std::string>{"core", "scheduler", "timer_slack", "stack", "prefault",
                                            "memory_lock"}));
  // The same bits, whatever was granted.
  expect_same_bits(*plain, *engine, config, 20);
}

/// Processor time that an idle engine uses in the 150 ms after a step; milliseconds.
double idle_cpu_ms(int busy_poll_us) {
  const TemporaryModel file(lively_stream_model(tiny_stream_config(), 3));
  EngineOptions options;
  options.model_path = file.path();
  options.threads = 1;
  options.busy_poll_us = busy_poll_us;
  const auto engine = Engine::create(options).value_or_throw();
  const auto session = engine->open_session({}).value_or_throw().id;
  engine->step({.session = session, .sequence = 0}).value_or_throw();
  const auto cpu_ms = [] {
    timespec t{};
    ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) * 1e3 + static_cast<double>(t.tv_nsec) * 1e-6;
  };
  const double before = cpu_ms();
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  return cpu_ms() - before;
}

TEST(EngineRealtime, AComputeThreadThatPollsIsAwakeBetweenStepsAndElseAsleep) {
  EXPECT_LT(idle_cpu_ms(0), 5);
  EXPECT_GT(idle_cpu_ms(1'000'000), 5);
}

TEST(EngineRealtime, PollingChangesNoBitAndNoEngineWaitsForItsEnd) {
  const ModelConfig config = tiny_stream_config();
  const TemporaryModel file(lively_stream_model(config, 3));
  const auto plain = make_engine(file);
  EngineOptions options;
  options.model_path = file.path();
  options.busy_poll_us = 30'000'000;
  const auto from = std::chrono::steady_clock::now();
  {
    const auto engine = Engine::create(options).value_or_throw();
    expect_same_bits(*plain, *engine, config, 200);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - from, std::chrono::seconds(20));

  options.busy_poll_us = -1;
  EXPECT_EQ(Engine::create(options).error().field, "busy_poll_us");
}

}  // namespace
}  // namespace cortex::testing
