#include <atomic>
#include <chrono>
#include <thread>

#include "engine_fixture.h"

namespace cortex::testing {
namespace {

class EngineContract : public ::testing::Test {
 protected:
  ModelConfig config_ = tiny_stream_config();
  TemporaryModel file_{lively_stream_model(config_, 21)};
  std::unique_ptr<Engine> engine_ = make_engine(file_, 2, 4);

  SessionId open() { return engine_->open_session({}).value_or_throw().id; }
  Result<OwnedAnswer> step(SessionId id, std::int64_t n, std::vector<Event> events) {
    return engine_->step({.session = id, .sequence = n, .events = events});
  }
};

TEST_F(EngineContract, ABadEventNamesItsPlaceAndTakesNothing) {
  const SessionId id = open();
  const std::vector<Event> good = {{1, 1, 0}, {2, 2, 3}};
  struct Case {
    Event event;
    const char* field;
    const char* value;
  };
  for (const Case& c :
       {Case{{9, 1, 0}, "events[2].neuron_id", "9"}, Case{{-1, 1, 0}, "events[2].neuron_id", "-1"},
        Case{{0, 0, 0}, "events[2].value", "0"}, Case{{0, 1, 4}, "events[2].time_bin", "4"},
        Case{{0, 1, -1}, "events[2].time_bin", "-1"}}) {
    auto events = good;
    events.push_back(c.event);
    const auto refused = step(id, 0, events);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
    EXPECT_EQ(refused.error().field, c.field);
    EXPECT_NE(refused.error().message.find(c.value), std::string::npos) << refused.error().message;
  }
  const auto after = step(id, 0, good).value_or_throw().behavior;
  const auto fresh = step(open(), 0, good).value_or_throw().behavior;
  EXPECT_EQ(after, fresh);
}

TEST_F(EngineContract, AStepOutOfOrderNamesTheExpectedOne) {
  const SessionId id = open();
  ASSERT_TRUE(step(id, 0, {}));
  for (const std::int64_t n : {0, 2, 100}) {
    const auto refused = step(id, n, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::out_of_order);
    EXPECT_NE(refused.error().message.find("expects 1 next"), std::string::npos);
  }
  EXPECT_TRUE(step(id, 1, {}));
  EXPECT_FALSE(engine_->step({.session = id, .sequence = 5, .gap = 2}));
  EXPECT_TRUE(engine_->step({.session = id, .sequence = 5, .gap = 3}));
  EXPECT_TRUE(step(id, 6, {}));
}

TEST_F(EngineContract, ALostDeadlineIsMarkedOrWithheldAndTheStreamStaysExact) {
  const SessionId punctual = open();
  const SessionId tardy = open();
  std::mt19937_64 random(3);
  for (std::int64_t n = 0; n < 12; ++n) {
    const auto events = random_step(random, config_, n, 6);
    const auto want = step(punctual, n, events).value_or_throw();
    EXPECT_EQ(want.status, StepStatus::fresh);
    const bool lose = n % 3 == 0;
    const bool best_effort = n % 2 == 0;
    const auto got = engine_
                         ->step({.session = tardy,
                                 .sequence = n,
                                 .events = events,
                                 .deadline_ns = lose ? 1 : kNoDeadline,
                                 .best_effort = best_effort})
                         .value_or_throw();
    if (!lose) {
      EXPECT_EQ(got.status, StepStatus::fresh);
    } else {
      EXPECT_EQ(got.status, best_effort ? StepStatus::late : StepStatus::refused);
    }
    if (got.status == StepStatus::refused) {
      EXPECT_TRUE(got.behavior.empty());
    } else {
      EXPECT_EQ(got.behavior, want.behavior);
    }
  }
  const auto summary = engine_->close_session(tardy).value_or_throw();
  EXPECT_EQ(summary.steps, 12);
  EXPECT_EQ(summary.late, 2);
  EXPECT_EQ(summary.refused, 2);
}

TEST_F(EngineContract, SessionsBeyondThePoolAreRefusedAndTheirPagesComeBack) {
  const SessionId a = open();
  const SessionId b = open();
  const auto refused = engine_->open_session({});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(engine_->stats().sessions, 2);
  EXPECT_EQ(engine_->stats().pages_used, engine_->stats().pages_total);
  EXPECT_TRUE(step(a, 0, {}));
  EXPECT_TRUE(engine_->close_session(b));
  EXPECT_TRUE(engine_->open_session({}));
  EXPECT_TRUE(step(a, 1, {}));
}

TEST_F(EngineContract, AClosedSessionSaysSo) {
  const SessionId id = open();
  ASSERT_TRUE(engine_->close_session(id));
  EXPECT_EQ(step(id, 0, {}).error().code, ErrorCode::not_found);
  EXPECT_EQ(engine_->close_session(id).error().code, ErrorCode::not_found);
  EXPECT_EQ(engine_->stats().pages_used, 0);
}

TEST_F(EngineContract, UnitsAreMatchedByIdAndAMismatchListsThem) {
  std::vector<std::string> ids;
  for (const ModelUnit& u : config_.units) ids.push_back(u.id);
  auto reversed = ids;
  std::reverse(reversed.begin(), reversed.end());
  const auto plain = open();
  const auto turned = engine_->open_session({.unit_ids = reversed}).value_or_throw().id;
  EXPECT_EQ(step(plain, 0, {{1, 2, 0}, {7, 1, 3}}).value_or_throw().behavior,
            step(turned, 0, {{7, 2, 0}, {1, 1, 3}}).value_or_throw().behavior);

  auto wrong = ids;
  wrong[3] = "stranger";
  const auto refused = engine_->open_session({.unit_ids = wrong});
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("unknown to it: stranger"), std::string::npos);
  EXPECT_NE(refused.error().message.find("not declared: u3"), std::string::npos);
}

TEST_F(EngineContract, MissingUnitsAreSilentWhereAllowed) {
  const auto id =
      engine_->open_session({.unit_ids = {"u4"}, .allow_missing_units = true}).value_or_throw().id;
  EXPECT_EQ(step(id, 0, {{0, 1, 2}}).value_or_throw().behavior,
            step(open(), 0, {{4, 1, 2}}).value_or_throw().behavior);
  EXPECT_FALSE(step(id, 1, {{1, 1, 4}}));
}

TEST_F(EngineContract, EventsOutsideTheirStepAreCountedWhereTheSessionAskedForDropping) {
  const auto id = engine_->open_session({.drop_out_of_step = true}).value_or_throw().id;
  EXPECT_EQ(step(id, 0, {{0, 1, 2}, {0, 1, 77}}).value_or_throw().behavior,
            step(open(), 0, {{0, 1, 2}}).value_or_throw().behavior);
  EXPECT_EQ(engine_->close_session(id).value_or_throw().dropped_events, 1);
}

TEST_F(EngineContract, MoreEventsThanAStepMayHoldAreRefused) {
  const SessionId id = open();
  const std::vector<Event> many(static_cast<std::size_t>(config_.max_events_per_step) + 1,
                                Event{0, 1, 0});
  EXPECT_EQ(step(id, 0, many).error().code, ErrorCode::too_large);
  EXPECT_TRUE(step(id, 0, {}));
}

TEST_F(EngineContract, AStatelessRequestTooLateToStartFailsAlone) {
  const std::vector<Event> events = {{0, 1, 0}};
  EXPECT_EQ(engine_->decode({.events = events, .deadline_ns = 1}).error().code,
            ErrorCode::deadline_exceeded);
  EXPECT_TRUE(engine_->decode({.events = events, .deadline_ns = 1, .best_effort = true}));
  EXPECT_TRUE(engine_->decode({.events = events}));
}

TEST_F(EngineContract, IdleSessionsExpireAndLiveOnesStay) {
  EngineOptions options;
  options.model_path = file_.path();
  options.idle_timeout_s = 0.05;
  const auto engine = Engine::create(options).value_or_throw();
  const auto idle = engine->open_session({}).value_or_throw().id;
  std::this_thread::sleep_for(std::chrono::milliseconds(80));
  const auto live = engine->open_session({}).value_or_throw().id;
  EXPECT_EQ(engine->expire_idle_sessions(), 1);
  EXPECT_EQ(engine->step({.session = idle, .sequence = 0}).error().code, ErrorCode::not_found);
  EXPECT_TRUE(engine->step({.session = live, .sequence = 0}));
}

class CountingSink final : public StepSink {
 public:
  void on_step(const StepAnswer& answer) noexcept override {
    (answer.error ? failed : answered).fetch_add(1);
  }
  std::atomic<int> answered{0};
  std::atomic<int> failed{0};
};

TEST_F(EngineContract, EveryAcceptedStepIsAnsweredOnceWhateverClosesMeanwhile) {
  for (int round = 0; round < 50; ++round) {
    const SessionId id = open();
    CountingSink sink;
    int accepted = 0;
    for (std::int64_t n = 0; n < 4; ++n)
      accepted += engine_->submit({.session = id, .sequence = n}, sink) ? 1 : 0;
    EXPECT_EQ(accepted, 4);
    ASSERT_TRUE(engine_->close_session(id));
    EXPECT_EQ(sink.answered + sink.failed, accepted);
  }
}

TEST_F(EngineContract, TheEngineAnswersWhatItAcceptedBeforeItStops) {
  CountingSink sink;
  const SessionId id = open();
  for (std::int64_t n = 0; n < 4; ++n)
    ASSERT_TRUE(engine_->submit({.session = id, .sequence = n}, sink));
  engine_.reset();
  EXPECT_EQ(sink.answered, 4);
}

TEST_F(EngineContract, AWindowModelKeepsNoSessionsAndDecodesWindows) {
  ModelConfig c = preset_config("cortex-xs").value_or_throw();
  c.dim = 32;
  c.layers = 1;
  c.heads = 2;
  c.head_dim = 16;
  c.latents = 8;
  c.max_neurons = 20;
  c.max_bins = 64;
  const TemporaryModel file(random_model(c, 1));
  const auto engine = make_engine(file);
  EXPECT_EQ(engine->open_session({}).error().code, ErrorCode::unsupported);
  const std::vector<Event> events = {{3, 1, 10}, {19, 7, 63}};
  EXPECT_EQ(engine->decode({.events = events}).value_or_throw().behavior.size(), 2U);
  const std::vector<Event> bad = {{3, 1, 10}, {20, 1, 3}};
  EXPECT_EQ(engine->decode({.events = bad}).error().field, "events[1].neuron_id");
  const std::vector<Event> late_bin = {{3, 1, 64}};
  EXPECT_EQ(engine->decode({.events = late_bin}).error().field, "events[0].time_bin");
}

}  // namespace
}  // namespace cortex::testing
