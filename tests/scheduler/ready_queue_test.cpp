#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>

#include "scheduler/ready_queue.h"

namespace cortex::testing {
namespace {

template <class Queue>
class ReadyQueue : public ::testing::Test {};
using Queues = ::testing::Types<WorkHeap, WorkList>;
TYPED_TEST_SUITE(ReadyQueue, Queues);

TYPED_TEST(ReadyQueue, ErasedWorkIsGoneAndTheRestKeepsItsOrder) {
  TypeParam queue;
  for (std::uint64_t k = 0; k < 30; ++k)
    queue.push({.key = k, .due = static_cast<TimeNs>(k * 7 % 30)});
  EXPECT_EQ(queue.erase_if([](const Work& work) { return work.key % 3 == 0; }), 10);
  EXPECT_EQ(queue.size(), 20U);
  for (TimeNs last = -1; !queue.empty(); queue.pop()) {
    EXPECT_NE(queue.front().key % 3, 0U);
    EXPECT_GT(queue.front().due, last);
    last = queue.front().due;
  }
}

TYPED_TEST(ReadyQueue, EqualTimesAreServedInTurn) {
  TypeParam queue;
  for (std::uint64_t k = 0; k < 20; ++k) queue.push({.key = k});
  for (std::uint64_t k = 0; k < 20; ++k) {
    EXPECT_EQ(queue.front().key, k);
    queue.pop();
  }
}

}  // namespace
}  // namespace cortex::testing
