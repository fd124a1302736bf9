#include "cache/session_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <set>
#include <vector>

/// Every interleaving of what may happen to a page pool and its sessions, up to a depth, against a
/// model that says what must be true. A step that runs writes to its session's pages: nobody else
/// may hold one of them until it has ended, whatever is opened, closed or expired meanwhile.
namespace cortex::testing {
namespace {

constexpr std::int32_t kPages = 5;
constexpr std::int32_t kPerSession = 2;  // so a page is left over
constexpr int kMostSessions = kPages / kPerSession;
constexpr int kDepth = 9;

struct Value {
  bool busy = false;  // a step of it runs: it neither expires nor is released
  bool used = false;  // since the last expiry
};

enum class Phase { live, closing, gone };

/// What the table must say of a session.
struct Expected {
  Phase phase = Phase::live;
  bool busy = false;
  bool used = false;
  std::vector<std::int32_t> pages;
};

struct State {
  SessionTable<Value> table{kPages, kPerSession};
  std::map<std::uint64_t, Expected> sessions;  // all there ever were

  std::int64_t count(Phase phase) const {
    return std::count_if(sessions.begin(), sessions.end(),
                         [&](const auto& entry) { return entry.second.phase == phase; });
  }
};

class Explorer {
 public:
  void explore() { from(State{}, 0); }
  std::int64_t states = 0;

 private:
  void from(const State& state, int depth) {
    ++states;
    ASSERT_NO_FATAL_FAILURE(check(state));
    if (depth == kDepth) return;
    next(state, depth, [&](State& s) { open(s); });
    next(state, depth, [&](State& s) { expire(s); });
    for (const auto& [id, expected] : state.sessions) {
      const std::uint64_t session = id;
      // What is gone stays so: try it once, on the last of them.
      const bool gone = expected.phase == Phase::gone;
      if (gone && std::any_of(state.sessions.upper_bound(id), state.sessions.end(),
                              [](const auto& e) { return e.second.phase == Phase::gone; }))
        continue;
      if (expected.phase == Phase::live && !expected.busy)
        next(state, depth, [&](State& s) { begin_step(s, session); });
      if (expected.busy) next(state, depth, [&](State& s) { end_step(s, session); });
      next(state, depth, [&](State& s) { close(s, session); });
      if (!expected.busy) next(state, depth, [&](State& s) { release(s, session); });
    }
  }

  template <class Move>
  void next(const State& state, int depth, Move move) {
    if (::testing::Test::HasFatalFailure()) return;
    State after = state;
    move(after);
    from(after, depth + 1);
  }

  static void open(State& s) {
    const auto opened = s.table.open();
    const bool room = s.count(Phase::live) + s.count(Phase::closing) < kMostSessions;
    ASSERT_EQ(bool(opened), room);
    if (!opened) {
      ASSERT_EQ(opened.error().code, ErrorCode::resource_exhausted);
      return;
    }
    ASSERT_EQ(s.sessions.count(opened->id), 0U) << "a number is never used again";
    s.sessions[opened->id] = {.pages = opened->pages};
  }
  static void begin_step(State& s, std::uint64_t id) {
    Value* const value = s.table.find(id);
    ASSERT_NE(value, nullptr);
    value->busy = value->used = true;
    s.sessions[id].busy = s.sessions[id].used = true;
  }
  static void end_step(State& s, std::uint64_t id) {
    // The compute thread holds the session itself, not the table.
    if (Value* const value = s.table.find(id)) value->busy = false;
    s.sessions[id].busy = false;
  }
  static void close(State& s, std::uint64_t id) {
    Expected& expected = s.sessions[id];
    ASSERT_EQ(s.table.close(id), expected.phase == Phase::live);
    if (expected.phase == Phase::live) expected.phase = Phase::closing;
  }
  static void release(State& s, std::uint64_t id) {
    Expected& expected = s.sessions[id];
    ASSERT_EQ(s.table.release(id), expected.phase == Phase::closing);
    if (expected.phase == Phase::closing) expected.phase = Phase::gone;
  }
  static void expire(State& s) {
    std::set<std::uint64_t> due;
    for (auto& [id, expected] : s.sessions) {
      if (expected.phase != Phase::live) continue;
      if (!expected.busy && !expected.used) due.insert(id);
    }
    const auto closed =
        s.table.close_if([](const Value& value) { return !value.busy && !value.used; });
    ASSERT_EQ(std::set<std::uint64_t>(closed.begin(), closed.end()), due);
    for (auto& [id, expected] : s.sessions) {
      if (due.count(id) != 0) expected.phase = Phase::closing;
      expected.used = false;
      if (Value* const value = s.table.find(id)) value->used = false;
    }
  }

  static void check(const State& s) {
    std::array<int, kPages> holders{};
    State copy = s;
    for (const auto& [id, expected] : s.sessions) {
      ASSERT_EQ(copy.table.find(id) != nullptr, expected.phase == Phase::live) << id;
      if (expected.phase == Phase::gone) continue;
      ASSERT_EQ(expected.pages.size(), static_cast<std::size_t>(kPerSession));
      for (const std::int32_t page : expected.pages) {
        ASSERT_GE(page, 0);
        ASSERT_LT(page, kPages);
        ASSERT_EQ(++holders[static_cast<std::size_t>(page)], 1) << "page " << page;
      }
    }
    ASSERT_EQ(s.table.live(), s.count(Phase::live));
    ASSERT_EQ(s.table.closing(), s.count(Phase::closing));
    ASSERT_EQ(s.table.pages_total(), kPages);
    ASSERT_EQ(s.table.pages_used(), std::count(holders.begin(), holders.end(), 1));
  }
};

TEST(SessionTable, HoldsInEveryInterleavingOfOpenStepCloseReleaseAndExpire) {
  Explorer explorer;
  explorer.explore();
  RecordProperty("states", std::to_string(explorer.states));
  EXPECT_GT(explorer.states, 100'000);
}

TEST(SessionTable, VisitsLiveSessionsAlone) {
  SessionTable<int> table(4, 1);
  const auto a = table.open().value_or_throw(), b = table.open().value_or_throw();
  *table.find(a.id) = 7;
  *table.find(b.id) = 8;
  ASSERT_TRUE(table.close(a.id));
  std::vector<int> seen;
  table.for_each([&](int value) { seen.push_back(value); });
  EXPECT_EQ(seen, std::vector<int>{8});
}

}  // namespace
}  // namespace cortex::testing
