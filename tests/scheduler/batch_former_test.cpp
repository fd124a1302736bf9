#include "scheduler/batch_former.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <set>

namespace cortex::testing {
namespace {

/// Ten a batch, and five for each row of it: batching pays.
CostModel shared_cost() {
  return CostModel(8, std::vector<BatchCost>{{1, 0, 15'000}, {8, 0, 50'000}});
}

rc::Gen<Work> any_work() {
  return rc::gen::build<Work>(
      rc::gen::set(&Work::deadline, rc::gen::inRange<TimeNs>(0, 400'000)),
      rc::gen::set(&Work::interval, rc::gen::element<TimeNs>(0, 30'000, 200'000)),
      rc::gen::set(&Work::keys, rc::gen::inRange(0, 100)),
      rc::gen::set(&Work::promised, rc::gen::arbitrary<bool>()),
      rc::gen::set(&Work::sheddable, rc::gen::arbitrary<bool>()));
}

template <class Queue>
void check_batches() {
  const CostModel cost = shared_cost();
  Queue queue;
  std::map<std::uint64_t, Work> waiting;
  FormedBatch batch;
  TimeNs now = 0;
  std::uint64_t key = 0;
  const auto rounds = *rc::gen::container<std::vector<std::vector<Work>>>(
      rc::gen::container<std::vector<Work>>(any_work()));
  for (const auto& arrivals : rounds) {
    for (Work work : arrivals) {
      work.key = key++;
      work.due = work.deadline += now;
      waiting[work.key] = work;
      queue.push(work);
    }
    form_batch(queue, cost, 8, now, batch);
    RC_ASSERT(batch.taken.size() <= 8U);
    TimeNs last = -1;
    for (const Work& work : batch.taken) {
      RC_ASSERT(waiting.erase(work.key) == 1U);
      RC_ASSERT(work.due >= last);
      last = work.due;
      if (work.promised) RC_ASSERT(now + batch.predicted <= work.deadline);
    }
    for (const Work& work : batch.shed) {
      RC_ASSERT(waiting.erase(work.key) == 1U);
      RC_ASSERT(work.promised && work.sheddable);
      RC_ASSERT(now + cost.predict(1, work.keys) > work.deadline);
    }
    RC_ASSERT(queue.size() == waiting.size());
    RC_ASSERT(!batch.taken.empty() || queue.empty());
    Queue rest = queue;
    for (; !rest.empty(); rest.pop()) {
      RC_ASSERT(rest.front().due >= last);
      RC_ASSERT(waiting.count(rest.front().key) == 1U);
    }
    now += std::max<TimeNs>(batch.predicted, 1) + *rc::gen::inRange<TimeNs>(0, 40'000);
  }
}

RC_GTEST_PROP(FormBatch, OfAHeapNeverDispatchesAPredictedMissNorALaterTimeFirstNorLosesWork, ()) {
  check_batches<WorkHeap>();
}

RC_GTEST_PROP(FormBatch, OfAListNeverDispatchesAPredictedMissNorALaterTimeFirstNorLosesWork, ()) {
  check_batches<WorkList>();
}

Work promised(std::uint64_t key, TimeNs deadline) {
  return {.key = key, .deadline = deadline, .due = deadline, .promised = true};
}

TEST(FormBatch, GrowsOnlyWhileItsEarliestDeadlineIsMet) {
  const CostModel cost = shared_cost();
  WorkList queue;
  FormedBatch batch;
  // One takes 16.5, two 22, three 27.5.
  queue.push(promised(0, 23'000));
  for (std::uint64_t k = 1; k < 6; ++k) queue.push(promised(k, 900'000));
  form_batch(queue, cost, 8, 0, batch);
  EXPECT_EQ(batch.taken.size(), 2U);
  form_batch(queue, cost, 8, 0, batch);
  EXPECT_EQ(batch.taken.size(), 4U);
}

TEST(FormBatch, WhereRowsCostInProportionBatchesAreOfOne) {
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, 10'000}, {8, 0, 80'000}});
  WorkList queue;
  FormedBatch batch;
  for (std::uint64_t k = 0; k < 5; ++k) queue.push(promised(k, 900'000));
  form_batch(queue, cost, 8, 0, batch);
  EXPECT_EQ(batch.taken.size(), 1U);
}

TEST(FormBatch, WorkThatLostItsDeadlineGoesBehindWorkThatCanBeInTime) {
  const CostModel cost = shared_cost();
  WorkHeap queue;
  FormedBatch batch;
  Work late = promised(0, 10'000);
  late.interval = 50'000;
  queue.push(late);
  queue.push(promised(1, 24'000));
  form_batch(queue, cost, 1, 0, batch);
  ASSERT_EQ(batch.taken.size(), 1U);
  EXPECT_EQ(batch.taken[0].key, 1U);
  form_batch(queue, cost, 1, 100'000, batch);
  ASSERT_EQ(batch.taken.size(), 1U);
  EXPECT_EQ(batch.taken[0].key, 0U);
  EXPECT_FALSE(batch.taken[0].promised);
}

TEST(Forecast, RunsTheQueueAsTheFormerWill) {
  const CostModel cost = shared_cost();
  WorkList queue;
  for (std::uint64_t k = 0; k < 30; ++k) {
    Work work = promised(k, static_cast<TimeNs>(20'000 + k * 7'919 % 150'000));
    work.sheddable = true;
    queue.push(work);
  }
  Forecast forecast(cost, 8, 0);
  std::set<std::uint64_t> misses;
  for (std::size_t i = 0; i < queue.size(); ++i)
    if (!forecast.add(queue[i])) misses.insert(queue[i].key);
  TimeNs now = 0;
  FormedBatch batch;
  std::set<std::uint64_t> shed;
  while (!queue.empty()) {
    form_batch(queue, cost, 8, now, batch);
    now += batch.predicted;
    for (const Work& work : batch.taken) EXPECT_LE(now, work.deadline);
    for (const Work& work : batch.shed) shed.insert(work.key);
  }
  EXPECT_FALSE(misses.empty());
  EXPECT_EQ(shed, misses);
  EXPECT_EQ(forecast.misses(), static_cast<std::int64_t>(misses.size()));
}

}  // namespace
}  // namespace cortex::testing
