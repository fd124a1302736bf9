#include <array>
#include <map>

#include "virtual_engine.h"

/// Every sequence, up to a length, of what clients and time may do to an engine with room for two
/// sessions, against a model of what it must answer.
namespace cortex::testing {
namespace {

constexpr int kSessions = 2;
constexpr int kLength = 5;
constexpr double kIdleSeconds = 10;

enum class Act { open, step_first, step_last, skip, close_first, close_last, wait, expire };
constexpr std::array kActs = {Act::open,        Act::step_first, Act::step_last, Act::skip,
                              Act::close_first, Act::close_last, Act::wait,      Act::expire};

class SmallStates : public ::testing::Test {
 protected:
  struct Session {
    std::int64_t next = 0;
    std::int64_t last_active = 0;
  };

  ModelConfig config_ = tiny_stream_config();
  ModelFile file_ = lively_stream_model(config_, 33);
  VirtualEngine engine_{file_,
                        {.max_sessions = kSessions,
                         .idle_timeout_s = kIdleSeconds,
                         .max_utilisation = 1e9,
                         .max_tenant_utilisation = 1e9}};
  std::map<SessionId, Session> live_;
  std::vector<SessionId> gone_;
  std::vector<std::vector<float>> want_;  // of an undisturbed session

  std::vector<Event> events_of(std::int64_t n) const {
    return {{static_cast<std::int32_t>(n % 7), 1, n * config_.bins_per_step()}};
  }
  void SetUp() override {
    const SessionId id = engine_->open_session({}).value_or_throw().id;
    for (std::int64_t n = 0; n < kLength; ++n) {
      const auto events = events_of(n);
      want_.push_back(engine_->step({.session = id, .sequence = n, .events = events})
                          .value_or_throw()
                          .behavior);
    }
    ASSERT_TRUE(engine_->close_session(id));
    gone_.push_back(id);
  }

  void open() {
    const auto opened = engine_->open_session({});
    ASSERT_EQ(bool(opened), live_.size() < kSessions);
    if (opened) {
      ASSERT_TRUE(opened->id > gone_.back());
      live_[opened->id] = {.last_active = engine_.clock().now()};
    } else {
      ASSERT_EQ(opened.error().code, ErrorCode::resource_exhausted);
    }
  }
  /// The first or last of the live sessions; where there is none, one that is gone.
  SessionId pick(bool first) const {
    if (live_.empty()) return gone_.back();
    return first ? live_.begin()->first : live_.rbegin()->first;
  }
  void step(SessionId id, std::int64_t ahead) {
    const auto found = live_.find(id);
    const std::int64_t n = (found == live_.end() ? 0 : found->second.next) + ahead;
    const auto events = events_of(n);
    const auto got = engine_->step({.session = id, .sequence = n, .events = events});
    if (found == live_.end()) {
      ASSERT_EQ(got.error().code, ErrorCode::not_found);
    } else if (ahead != 0) {
      ASSERT_EQ(got.error().code, ErrorCode::out_of_order);
    } else {
      ASSERT_TRUE(got) << got.error().message;
      ASSERT_EQ(got->behavior, want_[static_cast<std::size_t>(n)]) << "step " << n;
      found->second = {.next = n + 1, .last_active = engine_.clock().now()};
    }
  }
  void close(SessionId id) {
    const auto closed = engine_->close_session(id);
    const auto found = live_.find(id);
    ASSERT_EQ(bool(closed), found != live_.end());
    if (!closed) return;
    ASSERT_EQ(closed->steps, found->second.next);
    live_.erase(found);
    gone_.push_back(id);
  }
  void expire() {
    int due = 0;
    for (auto it = live_.begin(); it != live_.end();) {
      const bool idle =
          static_cast<double>(engine_.clock().now() - it->second.last_active) > kIdleSeconds * 1e9;
      due += idle ? 1 : 0;
      if (idle) gone_.push_back(it->first);
      it = idle ? live_.erase(it) : std::next(it);
    }
    ASSERT_EQ(engine_->expire_idle_sessions(), due);
  }
  void act(Act what) {
    switch (what) {
      case Act::open:
        return open();
      case Act::step_first:
        return step(pick(true), 0);
      case Act::step_last:
        return step(pick(false), 0);
      case Act::skip:
        return step(pick(true), 1);
      case Act::close_first:
        return close(pick(true));
      case Act::close_last:
        return close(pick(false));
      case Act::wait:
        return engine_.clock().advance(static_cast<TimeNs>(0.6 * kIdleSeconds * 1e9));
      case Act::expire:
        return expire();
    }
  }
  void check() {
    const EngineStats s = engine_->stats();
    ASSERT_EQ(s.sessions, static_cast<std::int64_t>(live_.size()));
    ASSERT_EQ(s.pages_used * kSessions, s.pages_total * s.sessions);
    ASSERT_EQ(s.queue_depth, 0);
    ASSERT_NEAR(s.reserved_hz, 1e3 / config_.step_ms * static_cast<double>(live_.size()), 1e-6);
  }
  void start_anew() {
    while (!live_.empty()) ASSERT_NO_FATAL_FAILURE(close(live_.begin()->first));
    ASSERT_NO_FATAL_FAILURE(check());
  }
};

TEST_F(SmallStates, TheEngineHoldsInEverySequenceOfOpenStepCloseWaitAndExpire) {
  std::array<std::size_t, kLength> sequence{};
  std::int64_t sequences = 0;
  for (bool more = true; more; ++sequences) {
    ASSERT_NO_FATAL_FAILURE(start_anew());
    for (const std::size_t index : sequence) {
      ASSERT_NO_FATAL_FAILURE(act(kActs[index])) << "sequence " << sequences;
      ASSERT_NO_FATAL_FAILURE(check()) << "sequence " << sequences;
    }
    more = false;
    for (std::size_t& index : sequence) {
      index = (index + 1) % kActs.size();
      if (index == 0) continue;
      more = true;
      break;
    }
  }
  std::int64_t all = 1;
  for (int i = 0; i < kLength; ++i) all *= static_cast<std::int64_t>(kActs.size());
  EXPECT_EQ(sequences, all);
}

}  // namespace
}  // namespace cortex::testing
