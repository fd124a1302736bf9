#include "scheduler/step_queue.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <deque>
#include <set>

namespace cortex::testing {
namespace {

constexpr TimeNs kUs = 1000;
constexpr TimeNs kMs = 1000 * kUs;

/// A batch of any size up to eight takes 1.1 ms.
CostModel flat_cost() { return CostModel(8, std::vector<BatchCost>{{1, 0, kMs}, {8, 0, kMs}}); }

Work step(StepFlow& flow, std::uint64_t key, TimeNs arrived, TimeNs deadline) {
  return {.key = key,
          .arrived = arrived,
          .deadline = deadline,
          .due = deadline,
          .flow = &flow,
          .promised = true,
          .fair_notice = true};
}

std::vector<std::uint64_t> keys_of(const FormedBatch& batch) {
  std::vector<std::uint64_t> keys;
  for (const Work& work : batch.taken) keys.push_back(work.key);
  return keys;
}

RC_GTEST_PROP(StepQueue, TakesEveryStepOnceAndNoPromisedOneThatWouldBeLateNorALaterDeadlineFirst,
              ()) {
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, 15'000}, {8, 0, 50'000}});
  const auto n = *rc::gen::inRange<std::size_t>(1, 40);
  std::deque<StepFlow> flows(n, StepFlow{.rate_hz = 50});
  StepQueue queue(*rc::gen::element(0.01, 0.05, 0.5));
  queue.reserve(n);
  std::set<std::uint64_t> ready;
  FormedBatch batch;
  batch.reserve(8, n);
  TimeNs now = 0;
  for (int round = 0; round < 60; ++round) {
    for (std::size_t s = 0; s < n; ++s)
      if (ready.count(s) == 0 && *rc::gen::inRange(0, 3) == 0) {
        queue.push(step(flows[s], s, now, now + *rc::gen::inRange<TimeNs>(0, 300'000)));
        ready.insert(s);
      }
    queue.form(cost, 8, now, batch);
    RC_ASSERT(batch.taken.size() <= 8U);
    RC_ASSERT(!batch.taken.empty() || ready.empty());
    RC_ASSERT(batch.shed.empty());
    TimeNs last = 0;
    for (const Work& work : batch.taken) {
      RC_ASSERT(ready.erase(work.key) == 1U);
      RC_ASSERT((work.flow->fell > 0) != work.promised);
      if (!work.promised) continue;
      RC_ASSERT(now + batch.predicted <= work.deadline);
      RC_ASSERT(work.deadline >= last);
      last = work.deadline;
    }
    now += batch.predicted + *rc::gen::inRange<TimeNs>(0, 50'000);
  }
  while (!queue.empty()) {
    queue.form(cost, 8, now, batch);
    for (const Work& work : batch.taken) RC_ASSERT(ready.erase(work.key) == 1U);
    now += batch.predicted;
  }
  RC_ASSERT(ready.empty());
  for (const StepFlow& flow : flows) queue.forget(flow);
  RC_ASSERT(queue.behind_hz() == 0);
  RC_ASSERT(queue.behind_since() == kNever);
}

TEST(StepQueue, WhatTheOthersLeaveGoesToTheSessionThatFellLastUntilItHasCaughtUp) {
  const CostModel cost(1, std::vector<BatchCost>{{1, 0, kMs}});
  StepQueue queue(0.001);
  FormedBatch batch;
  StepFlow first{.rate_hz = 50}, second{.rate_hz = 50};
  queue.push(step(first, 1, 0, 20 * kMs));
  queue.push(step(second, 2, 1, 20 * kMs + 1));
  TimeNs now = 100 * kMs;
  queue.form(cost, 1, now, batch);
  EXPECT_EQ(keys_of(batch), (std::vector<std::uint64_t>{2}));
  queue.push(step(second, 2, 1, 40 * kMs));
  // The first has its share, once in a thousand milliseconds.
  queue.form(cost, 1, now, batch);
  EXPECT_EQ(keys_of(batch), (std::vector<std::uint64_t>{1}));
  queue.push(step(first, 1, 0, 40 * kMs));
  EXPECT_EQ(queue.behind_hz(), 100);
  for (int i = 0; i < 4; ++i) {
    now += 2 * kMs;
    queue.form(cost, 1, now, batch);
    EXPECT_EQ(keys_of(batch), (std::vector<std::uint64_t>{2})) << i;
    EXPECT_FALSE(batch.taken[0].promised);
    queue.push(step(second, 2, 1, i < 3 ? 40 * kMs : now + 20 * kMs));
  }
  queue.form(cost, 1, now, batch);
  EXPECT_EQ(keys_of(batch), (std::vector<std::uint64_t>{2}));
  EXPECT_TRUE(batch.taken[0].promised) << "it has caught up";
  EXPECT_EQ(queue.behind_hz(), 50);
  queue.form(cost, 1, now, batch);
  EXPECT_EQ(keys_of(batch), (std::vector<std::uint64_t>{1}));
}

TEST(StepQueue, HoweverBusyOthersKeepTheDeviceTheSessionThatFellFirstHasAShare) {
  const CostModel cost(1, std::vector<BatchCost>{{1, 0, kMs}});
  StepQueue queue(0.05);
  FormedBatch batch;
  StepFlow behind{.rate_hz = 50}, busy{.rate_hz = 1000};
  queue.push(step(behind, 1, 0, 0));
  int served = 0;
  for (TimeNs now = 10 * kMs; now < 1000 * kMs; now += 2 * kMs) {
    queue.push(step(busy, 2, now, now + 4 * kMs));
    queue.form(cost, 1, now, batch);
    ASSERT_EQ(batch.taken.size(), 1U);
    if (batch.taken[0].key == 2) continue;
    ++served;
    queue.erase_if([](const Work& work) { return work.key == 2; });
    queue.push(step(behind, 1, 0, 0));
  }
  // A step of 1.1 ms in 22.
  EXPECT_GE(served, 40);
  EXPECT_LE(served, 50);
}

TEST(StepQueue, WhileSomeAreBehindASmallBatchIsNotFormedForTheSakeOfOne) {
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, kMs}, {8, 0, 4 * kMs}});
  StepQueue queue(1e-9);
  FormedBatch batch;
  std::deque<StepFlow> flows(10, StepFlow{.rate_hz = 50});
  const auto fill = [&](TimeNs now) {
    queue.push(step(flows[1], 1, now - 18 * kMs, now + 2 * kMs));
    for (std::uint64_t k = 2; k < 9; ++k) queue.push(step(flows[k], k, now, now + 20 * kMs));
  };
  fill(100 * kMs);
  queue.form(cost, 8, 100 * kMs, batch);
  EXPECT_LT(batch.taken.size(), 4U) << "the first has 2 ms left, all together take 4.4";
  queue.erase_if([](const Work&) { return true; });
  queue.push(step(flows[9], 9, 0, 0));
  queue.form(cost, 8, 190 * kMs, batch);
  queue.push(step(flows[9], 9, 0, 0));
  fill(200 * kMs);
  queue.form(cost, 8, 200 * kMs, batch);
  EXPECT_EQ(batch.taken.size(), 8U);
  EXPECT_EQ(batch.taken[0].key, 2U);
}

TEST(StepQueue, ASessionThatAsksForLessThanAPeriodTellsNothingOfTheLoad) {
  StepQueue queue(0.05);
  FormedBatch batch;
  StepFlow flow{.rate_hz = 50};
  Work hasty = step(flow, 1, 0, kMs);
  hasty.fair_notice = false;
  queue.push(hasty);
  queue.form(flat_cost(), 8, 10 * kMs, batch);
  EXPECT_GT(flow.fell, 0);
  EXPECT_EQ(queue.behind_hz(), 0);
}

}  // namespace
}  // namespace cortex::testing
