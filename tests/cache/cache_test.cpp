#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <deque>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "cache/event_store.h"
#include "cache/page_pool.h"
#include "cache/stream_state.h"

namespace cortex::testing {
namespace {

RC_GTEST_PROP(PagePool, NeverGivesAPageTwiceAndLosesNone, ()) {
  const int total = *rc::gen::inRange(1, 40);
  PagePool pool(total);
  std::deque<std::vector<std::int32_t>> held;
  const auto moves = *rc::gen::container<std::vector<int>>(rc::gen::inRange(-3, 12));
  for (const int m : moves) {
    if (m < 0) {
      if (held.empty()) continue;
      RC_ASSERT(bool(pool.release(held.front())));
      held.pop_front();
    } else {
      auto pages = pool.acquire(m);
      RC_ASSERT(
          bool(pages) ==
          (m <= total - std::accumulate(held.begin(), held.end(), 0, [](int n, const auto& h) {
                  return n + static_cast<int>(h.size());
                })));
      if (pages) held.push_back(*pages);
    }
    std::set<std::int32_t> all;
    std::size_t n = 0;
    for (const auto& h : held) {
      all.insert(h.begin(), h.end());
      n += h.size();
    }
    RC_ASSERT(all.size() == n);
    RC_ASSERT(pool.used() == static_cast<std::int32_t>(n));
    for (const std::int32_t p : all) RC_ASSERT(p >= 0 && p < total);
  }
}

TEST(PagePool, GivingBackWhatIsNotTakenChangesNothing) {
  PagePool pool(4);
  const auto pages = *pool.acquire(2);
  EXPECT_FALSE(pool.release({pages[0], pages[0]}));
  EXPECT_FALSE(pool.release({99}));
  EXPECT_FALSE(pool.release({-1}));
  EXPECT_EQ(pool.used(), 2);
  EXPECT_TRUE(pool.release(pages));
  EXPECT_FALSE(pool.release(pages));
  EXPECT_EQ(pool.used(), 0);
}

TEST(StreamState, HoldsTheEventsOfItsLastStepsOldestFirst) {
  StreamState state(100, 3, 5);
  std::vector<std::vector<Event>> events;
  for (std::int64_t s = 100; s < 110; ++s) {
    events.emplace_back(static_cast<std::size_t>(s % 4), Event{0, 1, s});
    state.push(events.back());
    EXPECT_EQ(state.step(), s);
    EXPECT_EQ(state.slot(), s % 5);
    EXPECT_EQ(state.live_steps(), std::min<std::int64_t>(5, s - 99));
    ASSERT_EQ(state.recent_steps(), std::min<std::int64_t>(3, s - 99));
    for (int i = 0; i < state.recent_steps(); ++i) {
      const std::int64_t at = s - state.recent_steps() + 1 + i;
      ASSERT_EQ(state.recent(i).size(), static_cast<std::size_t>(at % 4));
      for (const Event& e : state.recent(i)) EXPECT_EQ(e.bin, at);
    }
  }
  state.restart(7);
  EXPECT_EQ(state.next_step(), 7);
  state.push({});
  EXPECT_EQ(state.live_steps(), 1);
  EXPECT_EQ(state.recent_steps(), 1);
}

/// The events of `step`, told from others.
std::vector<Event> events_of(std::int64_t step, std::size_t count) {
  std::vector<Event> events;
  for (std::size_t i = 0; i < count; ++i) events.push_back({static_cast<std::int32_t>(i), 1, step});
  return events;
}

TEST(EventStore, KeepsWhatIsHeldAndGivesTheLowestFreePlace) {
  EventStore store(2, 10);
  const Event* const first = store.room(4).data();
  store.hold(0, 4);
  EXPECT_EQ(store.room(9).data(), first + 4) << "a room that nobody held is free";
  EXPECT_EQ(store.room(3).data(), first + 4);
  store.hold(1, 2);
  store.release_before(1);
  EXPECT_EQ(store.room(5).data(), first + 6) << "more than the place of step 0";
  EXPECT_EQ(store.room(4).data(), first);
  store.hold(2, 0);
  store.release_before(2);
  EXPECT_EQ(store.room(10).data(), first) << "no event, nothing held";
}

TEST(EventStore, HasRoomForAnySizesInAnyOrder) {
  constexpr std::size_t kHeld = 5, kMost = 16;
  std::mt19937_64 random{11};
  EventStore store(kHeld, kMost);
  const Event* const begin = store.room(0).data();
  std::map<std::int64_t, std::span<Event>> held;
  for (std::int64_t step = 0; step < 20'000; ++step) {
    const std::size_t n = random() % 3 == 0 ? kMost : random() % (kMost + 1);
    const std::span<Event> room = store.room(n);
    ASSERT_GE(room.data(), begin);
    ASSERT_LE(room.data() + room.size(), begin + (2 * kHeld + 1) * kMost);
    const auto events = events_of(step, n);
    std::copy(events.begin(), events.end(), room.begin());
    store.hold(step, n);
    held[step] = room;
    for (const auto& [s, at] : held)
      ASSERT_EQ(std::vector<Event>(at.begin(), at.end()), events_of(s, at.size()));
    const auto keep = static_cast<std::int64_t>(random() % (kHeld + 1));
    store.release_before(step + 1 - keep);
    std::erase_if(held, [&](const auto& entry) { return entry.first < step + 1 - keep; });
  }
}

TEST(Canonicalize, SortsMergesAndSaturates) {
  std::vector<Event> events = {{5, 1, 2}, {1, 2, 2},         {5, 4, 2},
                               {9, 1, 1}, {0, INT32_MAX, 3}, {0, 7, 3}};
  events.resize(canonicalize(events));
  const std::vector<Event> want = {{9, 1, 1}, {1, 2, 2}, {5, 5, 2}, {0, INT32_MAX, 3}};
  EXPECT_EQ(events, want);
}

}  // namespace
}  // namespace cortex::testing
