#include <atomic>
#include <chrono>
#include <thread>

#include "engine/local_engine.h"
#include "engine_fixture.h"
#include "kernels/forwarding_ops.h"
#include "virtual_engine.h"

/// A device that fails: who had asked hears of it, nothing is answered out of lost memory, and the
/// engine goes on.
namespace cortex::testing {
namespace {

using Answers = std::vector<std::vector<float>>;

struct Fault {
  std::atomic<bool> hold{false}, held{false};
  std::atomic<bool> next_forward{false};
  std::atomic<bool> next_result{false};
  std::atomic<bool> lost{false};
};

/// A CPU backend that stands for a GPU: it fails when told to, and from then on.
class FailingOps final : public ForwardingOps {
 public:
  FailingOps(std::unique_ptr<Ops> base, Fault& fault)
      : ForwardingOps(*base), base_(std::move(base)), fault_(fault) {}
  bool lost() const override { return fault_.lost; }
  bool begin_calls(const ForwardKey& key) override {
    while (fault_.hold) {
      fault_.held = true;
      std::this_thread::yield();
    }
    if (fault_.next_forward) fault_.lost = true;
    if (fault_.lost) throw DeviceError("cudaGraphLaunch: cudaErrorIllegalAddress");
    return ForwardingOps::begin_calls(key);
  }
  void receive(const SharedBuffer& buffer, std::size_t bytes) override {
    if (fault_.next_result) fault_.lost = true;
    if (fault_.lost) throw DeviceError("cudaEventSynchronize: cudaErrorIllegalAddress");
    ForwardingOps::receive(buffer, bytes);
  }

 private:
  std::unique_ptr<Ops> base_;
  Fault& fault_;
};

std::unique_ptr<LocalEngine> failing_engine(const ModelFile& file, Fault& fault) {
  EngineOptions options;
  options.model_path = "model";
  options.device = "cpu";
  options.threads = 1;
  Backend backend = make_backend("cpu", {.threads = 1}).value_or_throw();
  backend.ops = std::make_unique<FailingOps>(std::move(backend.ops), fault);
  backend.on_gpu = true;
  return std::make_unique<LocalEngine>(options, file, std::move(backend));
}

Answers run(Engine& engine, const ModelConfig& config, int steps) {
  std::mt19937_64 random(4);
  const auto session = engine.open_session({}).value_or_throw();
  Answers answers;
  for (int i = 0; i < steps; ++i)
    answers.push_back(engine
                          .step({.session = session.id,
                                 .sequence = i,
                                 .events = random_step(random, config, i, 10)})
                          .value_or_throw()
                          .behavior);
  (void)engine.close_session(session.id);
  return answers;
}

bool becomes_ready(const Engine& engine) {
  for (int i = 0; i < 6000; ++i) {
    if (engine.state() == EngineState::ready && engine.stats().recoveries == 1) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

TEST(DeviceFailure, EverySessionIsLostAndSaysSoAndNewOnesGiveTheSameBits) {
  const ModelFile file = lively_stream_model(tiny_stream_config(), 1);
  Fault fault;
  const auto engine = failing_engine(file, fault);
  const Answers before = run(*engine, file.config, 12);
  const auto hit = engine->open_session({}).value_or_throw();
  const auto idle = engine->open_session({}).value_or_throw();
  ASSERT_TRUE(engine->step({.session = idle.id, .sequence = 0}));
  fault.next_forward = true;
  const auto failed = engine->step({.session = hit.id, .sequence = 0});
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().code, ErrorCode::unavailable);
  EXPECT_NE(failed.error().message.find("cudaErrorIllegalAddress"), std::string::npos)
      << failed.error().message;
  fault.next_forward = false;
  ASSERT_TRUE(becomes_ready(*engine));
  // It was in no batch that failed, but what it remembers lay in the same memory.
  for (const SessionId id : {hit.id, idle.id}) {
    const auto next = engine->step({.session = id, .sequence = 1});
    ASSERT_FALSE(next);
    EXPECT_TRUE(engine->close_session(id));
  }
  EXPECT_EQ(run(*engine, file.config, 12), before);
  EXPECT_EQ(engine->stats().failed_batches, 1);
}

TEST(DeviceFailure, ABatchBehindOneThatMeetsItIsLostAsWell) {
  const ModelFile file = lively_stream_model(tiny_stream_config(), 1);
  Fault fault;
  const auto engine = failing_engine(file, fault);
  const Answers before = run(*engine, file.config, 12);
  KeepingSink sink;
  const auto submit = [&] {
    const auto session = engine->open_session({}).value_or_throw();
    ASSERT_TRUE(engine->submit({.session = session.id, .sequence = 0}, sink));
  };
  fault.hold = fault.next_result = true;
  submit();
  while (!fault.held) std::this_thread::yield();
  submit();
  fault.hold = false;
  for (const auto& kept : sink.wait(2)) {
    ASSERT_TRUE(kept.error);
    EXPECT_NE(kept.error->message.find("cudaErrorIllegalAddress"), std::string::npos)
        << kept.error->message;
  }
  fault.next_result = false;
  ASSERT_TRUE(becomes_ready(*engine));
  EXPECT_EQ(engine->stats().failed_batches, 2);
  EXPECT_EQ(run(*engine, file.config, 12), before);
}

TEST(DeviceFailure, AWindowsBatchFailsAloneAndTheNextWindowHasTheSameBits) {
  ModelConfig config = preset_config("cortex-xs").value_or_throw();
  config.layers = 1;
  const ModelFile file = random_model(config, 3);
  Fault fault;
  const auto engine = failing_engine(file, fault);
  const Event event{3, 1, 7};
  const auto before = engine->decode({.events = {&event, 1}}).value_or_throw().behavior;
  fault.next_forward = true;
  const auto failed = engine->decode({.events = {&event, 1}});
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().message.find("cudaErrorIllegalAddress"), std::string::npos);
  fault.next_forward = false;
  ASSERT_TRUE(becomes_ready(*engine));
  EXPECT_EQ(engine->decode({.events = {&event, 1}}).value_or_throw().behavior, before);
}

TEST(DeviceFailure, ADeviceThatFailedElsewhereIsSetUpAgainWithoutARequest) {
  const ModelFile file = lively_stream_model(tiny_stream_config(), 1);
  Fault fault;
  const auto engine = failing_engine(file, fault);
  const auto session = engine->open_session({}).value_or_throw();
  ASSERT_TRUE(engine->step({.session = session.id, .sequence = 0}));
  fault.lost = true;
  (void)engine->expire_idle_sessions();
  ASSERT_TRUE(becomes_ready(*engine));
  const auto next = engine->step({.session = session.id, .sequence = 1});
  ASSERT_FALSE(next);
  EXPECT_EQ(next.error().code, ErrorCode::unavailable);
}

}  // namespace
}  // namespace cortex::testing
