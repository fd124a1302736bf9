#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>

#include "scheduler/batch_former.h"

namespace cortex::testing {
namespace {

RC_GTEST_PROP(BatchFormer, AmongReadyWorkNeverALaterDeadlineFirstAndNothingIsLost, ()) {
  EdfQueue queue;
  std::map<std::uint64_t, TimeNs> waiting;
  std::uint64_t key = 0;
  const auto rounds = *rc::gen::container<std::vector<std::vector<int>>>(
      rc::gen::container<std::vector<int>>(rc::gen::inRange(0, 50)));
  const auto limit = static_cast<std::size_t>(*rc::gen::inRange(1, 9));
  std::vector<std::uint64_t> batch;
  for (const auto& arrivals : rounds) {
    for (const int deadline : arrivals) {
      queue.push(deadline, key);
      waiting[key++] = deadline;
    }
    form_batch(queue, limit, batch);
    RC_ASSERT(batch.size() == std::min(limit, waiting.size()));
    TimeNs last = -1;
    for (const std::uint64_t k : batch) {
      RC_ASSERT(waiting.count(k) == 1);
      RC_ASSERT(waiting[k] >= last);
      last = waiting[k];
      waiting.erase(k);
    }
    for (const auto& [k, deadline] : waiting) RC_ASSERT(deadline >= last);
  }
  RC_ASSERT(queue.size() == waiting.size());
}

TEST(EdfQueue, ErasedWorkIsGoneAndTheRestKeepsItsOrder) {
  EdfQueue queue;
  for (std::uint64_t k = 0; k < 30; ++k) queue.push(static_cast<TimeNs>(k * 7 % 30), k);
  for (std::uint64_t k = 0; k < 30; k += 3) queue.erase(k);
  queue.erase(999);
  EXPECT_EQ(queue.size(), 20U);
  TimeNs last = -1;
  while (!queue.empty()) {
    const ReadyWork next = queue.pop();
    EXPECT_NE(next.key % 3, 0U);
    EXPECT_GT(next.deadline, last);
    last = next.deadline;
  }
}

TEST(EdfQueue, EqualDeadlinesAreServedInTurn) {
  EdfQueue queue;
  for (std::uint64_t k = 0; k < 20; ++k) queue.push(kNever, k);
  for (std::uint64_t k = 0; k < 20; ++k) EXPECT_EQ(queue.pop().key, k);
}

}  // namespace
}  // namespace cortex::testing
