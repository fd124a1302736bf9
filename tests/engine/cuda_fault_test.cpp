#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "cuda_fixture.h"
#include "device_fault.h"

/// A program of its own: after its test the process may have no GPU.
namespace cortex::testing {
namespace {

TEST(DeviceFault, AGpuThatFailsFailsWhoAskedAndTheEngineGoesOn) {
  if (cuda_devices().empty()) GTEST_SKIP() << "no GPU: none was made to fail";
  const ModelFile file = stream_model("stream-nano", DType::bf16);
  const TemporaryModel model(file);
  const auto engine = engine_on(model, "cuda:0", 4), other = engine_on(model, "cuda:0", 4);
  const Steps steps = steps_of(file.config, 1, 20);
  const Answers before = run_alone(*engine, steps);
  const auto session = engine->open_session({}).value_or_throw();
  ASSERT_TRUE(break_device());
  const auto failed = engine->step({.session = session.id, .sequence = 0});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::unavailable) << failed.error().message;
  // The other one, which nobody asks for anything, lets go of the device too.
  for (int i = 0; i < 1000 && (engine->stats().recoveries == 0 || other->stats().recoveries == 0);
       ++i) {
    (void)other->expire_idle_sessions();
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  ASSERT_EQ(engine->state(), EngineState::ready);
  ASSERT_EQ(other->state(), EngineState::ready);
  for (Engine* each : {engine.get(), other.get()}) {
    const double error = relative_error(run_alone(*each, steps), before);
    EXPECT_LE(error, each->stats().fell_back ? 3e-2 : 0.0);
  }
}

}  // namespace
}  // namespace cortex::testing
