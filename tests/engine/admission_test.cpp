#include <algorithm>

#include "virtual_engine.h"

/// Who is let in, what may be withdrawn, and what answers and totals say of it.
namespace cortex::testing {
namespace {

class EngineAdmission : public ::testing::Test {
 protected:
  ModelConfig config_ = tiny_stream_config();
  ModelFile streams_ = lively_stream_model(config_, 32);
  ModelFile windows_ = tiny_window_model();
  const std::vector<Event> events_ = {{3, 1, 10}, {5, 1, 12}};
};

TEST_F(EngineAdmission, AWindowPredictedToMissIsRefusedAtOnceUnlessBestEffort) {
  VirtualEngine engine(windows_);
  KeepingSink sink;
  const auto refused =
      engine->submit(WindowRequest{.events = events_, .deadline_ns = engine.in_ms(0) + 1}, sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::deadline_exceeded);
  EXPECT_EQ(refused.error().field, "deadline_ms");
  EXPECT_EQ(sink.count(), 0U);
  EXPECT_EQ(engine->stats().predicted_misses, 1);
  EXPECT_EQ(engine->stats().batches, 0);
  engine.in_next_forward([&] { engine.clock().advance(10); });
  ASSERT_TRUE(engine->submit(
      WindowRequest{.events = events_, .deadline_ns = engine.in_ms(0) + 1, .best_effort = true},
      sink));
  EXPECT_FALSE(sink.wait(1)[0].error);
  EXPECT_EQ(engine->stats().late, 1);
}

TEST_F(EngineAdmission, ADeclaredRateBeyondTheCapacityIsRefusedAndLeavesNothingBehind) {
  VirtualEngine engine(streams_, {.max_sessions = 4});
  const auto refused = engine->open_session({.step_rate_hz = 1e6});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(refused.error().field, "step_rate_hz");
  EXPECT_NE(refused.error().message.find("capacity"), std::string::npos);
  EXPECT_NE(refused.error().message.find("1e+06"), std::string::npos) << refused.error().message;
  EXPECT_EQ(engine->stats().pages_used, 0);
  EXPECT_EQ(engine->stats().reserved_hz, 0);
  EXPECT_EQ(engine->open_session({.step_rate_hz = -1}).error().code, ErrorCode::invalid_argument);
  // Nothing is reserved for one that asks for no promise.
  EXPECT_EQ(engine->open_session({.step_rate_hz = 1e6, .best_effort = true})
                .value_or_throw()
                .step_rate_hz,
            0);
}

TEST_F(EngineAdmission, TheModelsOwnRateIsReservedUntilTheSessionCloses) {
  VirtualEngine engine(streams_, {.max_utilisation = 1e9, .max_tenant_utilisation = 1e9});
  const auto session = engine->open_session({}).value_or_throw();
  EXPECT_DOUBLE_EQ(session.step_rate_hz, 1e3 / config_.step_ms);
  EXPECT_DOUBLE_EQ(engine->stats().reserved_hz, 1e3 / config_.step_ms);
  EXPECT_GT(engine->stats().capacity_hz, 0);
  EXPECT_GT(engine->stats().predicted_batch_us, 0);
  ASSERT_TRUE(engine->close_session(session.id));
  EXPECT_EQ(engine->stats().reserved_hz, 0);
}

TEST_F(EngineAdmission, ATenantHasNoMoreSessionsThanItsLimit) {
  VirtualEngine engine(streams_, {.max_tenants = 3, .max_tenant_sessions = 2});
  const auto open = [&](TenantId tenant) {
    return engine->open_session({.tenant = tenant, .best_effort = true});
  };
  const auto first = open(1).value_or_throw();
  ASSERT_TRUE(open(1));
  const auto refused = open(1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  EXPECT_EQ(refused.error().field, "tenant");
  EXPECT_TRUE(open(2));
  ASSERT_TRUE(engine->close_session(first.id));
  EXPECT_TRUE(open(1));
  EXPECT_EQ(open(3).error().code, ErrorCode::invalid_argument);
}

TEST_F(EngineAdmission, ATenantsWindowsLeavePlacesToOthers) {
  VirtualEngine engine(windows_, {.max_queued_windows = 8, .max_tenants = 2});
  KeepingSink sink;
  const auto submit = [&](TenantId tenant) {
    return engine->submit(WindowRequest{.events = events_, .tenant = tenant}, sink);
  };
  engine.hold_in_forward([&] { ASSERT_TRUE(submit(1)); });
  ASSERT_TRUE(submit(0));
  int taken = 0;
  while (submit(1)) ++taken;
  EXPECT_LE(taken, 4);
  EXPECT_EQ(submit(1).error().field, "tenant");
  EXPECT_TRUE(submit(0)) << "there is room for the other one";
  engine.release();
  sink.wait(static_cast<std::size_t>(taken) + 3);
  EXPECT_EQ(engine->submit(WindowRequest{.events = events_, .tenant = 2}, sink).error().field,
            "tenant");
}

TEST_F(EngineAdmission, WithdrawnWindowsAreNeverAnsweredAndTheOthersAre) {
  for (const ModelFile* const model : {&windows_, &streams_}) {
    VirtualEngine engine(*model);
    KeepingSink running, gone, stays;
    const auto submit = [&](KeepingSink& sink) {
      ASSERT_TRUE(engine->submit(WindowRequest{.events = events_}, sink));
    };
    engine.hold_in_forward([&] { submit(running); });
    for (int i = 0; i < 3; ++i) submit(gone);
    submit(stays);
    EXPECT_EQ(engine->cancel(running), 0) << "a batch has it";
    EXPECT_EQ(engine->cancel(gone), 3);
    EXPECT_EQ(engine->cancel(gone), 0);
    engine.release();
    EXPECT_FALSE(running.wait(1)[0].error);
    EXPECT_FALSE(stays.wait(1)[0].error);
    EXPECT_TRUE(engine->decode({.events = events_}));
    EXPECT_EQ(gone.count(), 0U);
    EXPECT_EQ(engine->stats().cancelled, 3);
    EXPECT_EQ(engine->stats().queue_depth, 0);
  }
}

TEST_F(EngineAdmission, AnswersNameTheirBatchAndTheTimesOfItsParts) {
  VirtualEngine engine(streams_, {.max_sessions = 3, .max_batch = 4});
  std::vector<SessionId> ids;
  for (int i = 0; i < 3; ++i)
    ids.push_back(engine->open_session({.best_effort = true}).value_or_throw().id);
  KeepingSink sink;
  const auto submit = [&](std::size_t i, std::int64_t n) {
    ASSERT_TRUE(engine->submit({.session = ids[i], .sequence = n}, sink));
  };
  engine.hold_in_forward([&] { submit(0, 0); });
  engine.clock().advance(1000);
  for (const std::size_t i : {1U, 2U}) submit(i, 0);
  engine.clock().advance(1000);
  engine.in_next_forward([&] { engine.clock().advance(500); });
  engine.release();
  const auto& kept = sink.wait(3);
  EXPECT_EQ(kept[0].step.batch.size, 1);
  EXPECT_EQ(kept[0].step.batch.computed_ns - kept[0].step.batch.forward_ns, 2500);
  std::size_t rows = 0;
  for (const auto& answer : kept) {
    const StepAnswer& a = answer.step;
    rows += a.batch.id == kept[2].step.batch.id ? 1U : 0U;
    EXPECT_LE(a.submitted_ns, a.started_ns);
    EXPECT_LE(a.started_ns, a.batch.forward_ns);
    EXPECT_LE(a.batch.forward_ns, a.batch.computed_ns);
    EXPECT_LE(a.batch.computed_ns, a.finished_ns);
  }
  EXPECT_EQ(static_cast<std::size_t>(kept[2].step.batch.size), rows);
  EXPECT_GT(kept[2].step.batch.id, kept[0].step.batch.id);
  EXPECT_EQ(kept[2].step.started_ns - kept[2].step.submitted_ns, 1500);
}

TEST_F(EngineAdmission, TotalsAddUp) {
  VirtualEngine engine(streams_, {.max_sessions = 3, .max_batch = 4});
  std::vector<SessionId> ids;
  for (int i = 0; i < 3; ++i)
    ids.push_back(engine->open_session({.best_effort = true}).value_or_throw().id);
  KeepingSink sink;
  for (std::int64_t n = 0; n < 4; ++n)
    for (const SessionId id : ids)
      ASSERT_TRUE(engine->submit({.session = id, .sequence = n}, sink));
  sink.wait(12);
  ASSERT_TRUE(engine->close_session(ids[0]));
  EXPECT_FALSE(engine->submit({.session = ids[0], .sequence = 4}, sink));
  EXPECT_FALSE(engine->submit({.session = 999, .sequence = 0}, sink));
  ASSERT_TRUE(engine->close_session(ids[1]));
  const EngineStats s = engine->stats();
  EXPECT_EQ(s.steps, 12);
  EXPECT_EQ(s.cache_hits, 12);
  EXPECT_EQ(s.cache_misses, 2);
  EXPECT_EQ(s.batch_rows, 12);
  std::int64_t batches = 0;
  for (const std::int64_t n : s.batch_sizes) batches += n;
  EXPECT_EQ(batches, s.batches);
  EXPECT_EQ(s.sessions, 1);
  EXPECT_EQ(s.pages_used * 3, s.pages_total);
  EXPECT_EQ(s.queue_depth, 0);
}

}  // namespace
}  // namespace cortex::testing
