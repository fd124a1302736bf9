#include <array>
#include <atomic>
#include <thread>

#include "engine_fixture.h"

/// Clients that submit, close, expire and look at once; the thread sanitizer runs these too.
namespace cortex::testing {
namespace {

class TallySink final : public StepSink, public WindowSink {
 public:
  void on_step(const StepAnswer& a) noexcept override { (a.error ? failed : answered)++; }
  void on_window(const WindowAnswer& a) noexcept override { (a.error ? failed : answered)++; }
  std::atomic<int> answered{0};
  std::atomic<int> failed{0};
};

/// By how many batches are on their way at once; with two the compute thread polls as well.
class EngineConcurrency : public ::testing::TestWithParam<int> {
 protected:
  std::unique_ptr<Engine> engine(int sessions) {
    EngineOptions options;
    options.model_path = file_.path();
    options.max_sessions = sessions;
    options.max_batch = 3;
    options.idle_timeout_s = 1e-4;
    options.batches_in_flight = GetParam();
    options.busy_poll_us = GetParam() > 1 ? 50 : 0;
    return Engine::create(options).value_or_throw();
  }
  ModelConfig config_ = tiny_stream_config();
  TemporaryModel file_{lively_stream_model(config_, 9)};
};

INSTANTIATE_TEST_SUITE_P(Batches, EngineConcurrency, ::testing::Values(1, 2));

TEST_P(EngineConcurrency, EveryAcceptedStepIsAnsweredOnceHoweverSessionsEnd) {
  constexpr std::size_t kClients = 3;
  const auto engine = this->engine(kClients);
  std::array<TallySink, kClients> sinks;
  std::array<int, kClients> accepted{};
  std::atomic<bool> stop{false};
  std::thread housekeeper([&] {
    while (!stop) {
      engine->expire_idle_sessions();
      const EngineStats stats = engine->stats();
      EXPECT_LE(stats.pages_used, stats.pages_total);
      std::this_thread::yield();
    }
  });
  std::vector<std::thread> clients;
  for (std::size_t c = 0; c < kClients; ++c)
    clients.emplace_back([&, c] {
      std::mt19937_64 random(c);
      for (int round = 0; round < 60; ++round) {
        const auto opened = engine->open_session({});
        if (!opened) continue;
        std::int64_t next = 0;
        for (int n = 0; n < 6; ++n) {
          const auto gap = static_cast<std::int64_t>(random() % 8);
          const auto events = random_step(random, config_, next + gap, 6);
          if (engine->submit(
                  {.session = opened->id, .sequence = next + gap, .gap = gap, .events = events},
                  sinks[c])) {
            ++accepted[c];
            next += gap + 1;
          }
        }
        // Expiry may have been first.
        (void)engine->close_session(opened->id);
      }
    });
  for (std::thread& client : clients) client.join();
  stop = true;
  housekeeper.join();
  EXPECT_EQ(engine->stats().sessions, 0);
  EXPECT_EQ(engine->stats().pages_used, 0);
  for (std::size_t c = 0; c < kClients; ++c)
    EXPECT_EQ(sinks[c].answered + sinks[c].failed, accepted[c]);
  EXPECT_GT(accepted[0] + accepted[1] + accepted[2], 0);
}

TEST_P(EngineConcurrency, AStepWithEmptyStepsYetToRunIsAnsweredWhenItsSessionCloses) {
  const auto engine = this->engine(1);
  for (int round = 0; round < 50; ++round) {
    const SessionId id = engine->open_session({}).value_or_throw().id;
    TallySink sink;
    ASSERT_TRUE(engine->submit({.session = id, .sequence = 10, .gap = 10}, sink));
    if (round % 2 == 0) std::this_thread::yield();
    ASSERT_TRUE(engine->close_session(id));
    EXPECT_EQ(sink.answered + sink.failed, 1);
  }
}

TEST_P(EngineConcurrency, TwoClientsOfOneSessionNeverTakeTheSameStep) {
  const auto engine = this->engine(1);
  const SessionId id = engine->open_session({}).value_or_throw().id;
  TallySink sink;
  std::atomic<std::int64_t> taken{0};
  std::vector<std::thread> clients;
  clients.reserve(3);
  for (int c = 0; c < 3; ++c)
    clients.emplace_back([&] {
      for (std::int64_t at = taken; at < 300; at = taken)
        if (engine->submit({.session = id, .sequence = at}, sink)) {
          EXPECT_EQ(taken.load(), at);
          taken = at + 1;
        }
    });
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(engine->close_session(id).value_or_throw().steps + sink.failed, 300);
  EXPECT_EQ(sink.answered + sink.failed, 300);
}

TEST_P(EngineConcurrency, WindowsFromManyThreadsShareTheirPlaces) {
  const auto engine = this->engine(1);
  TallySink sink;
  std::atomic<int> accepted{0};
  const std::vector<Event> events = {{1, 1, 0}, {0, 2, 9}};
  std::vector<std::thread> clients;
  clients.reserve(3);
  for (int c = 0; c < 3; ++c)
    clients.emplace_back([&] {
      for (int n = 0; n < 200; ++n)
        accepted += engine->submit(WindowRequest{.events = events}, sink) ? 1 : 0;
    });
  for (std::thread& client : clients) client.join();
  while (sink.answered + sink.failed < accepted) std::this_thread::yield();
  EXPECT_GT(sink.answered, 0);
  EXPECT_EQ(sink.failed, 0);
}

}  // namespace
}  // namespace cortex::testing
