#include <algorithm>

#include "engine_fixture.h"

namespace cortex::testing {
namespace {

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
  const auto a = plain->open_session({}).value_or_throw().id;
  const auto b = engine->open_session({}).value_or_throw().id;
  std::mt19937_64 random(1);
  for (std::int64_t n = 0; n < 20; ++n) {
    const auto events = random_step(random, config, n, 6);
    EXPECT_EQ(
        plain->step({.session = a, .sequence = n, .events = events}).value_or_throw().behavior,
        engine->step({.session = b, .sequence = n, .events = events}).value_or_throw().behavior);
  }
}

}  // namespace
}  // namespace cortex::testing
