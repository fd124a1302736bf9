#include "client/step_history.h"

#include <gtest/gtest.h>

#include <vector>

namespace cortex {
namespace {

std::vector<std::int64_t> sequences(const StepHistory& history, std::int64_t next) {
  std::vector<std::int64_t> all;
  for (const auto* step : history.needed_before(next)) all.push_back(step->sequence);
  return all;
}

TEST(StepHistory, KeepsWhatTheNextAnswerDependsOnAndNoMore) {
  StepHistory history(0, 4);
  for (std::int64_t n = 0; n < 10; ++n) {
    const std::vector<Event> events = {{.unit = static_cast<int>(n), .value = 1, .bin = n}};
    history.add(n, events);
  }
  EXPECT_EQ(history.first_needed(10), 7);
  EXPECT_EQ(sequences(history, 10), (std::vector<std::int64_t>{7, 8, 9}));
  EXPECT_EQ(history.needed_before(10)[1]->events[0].unit, 8);
}

TEST(StepHistory, AYoungStreamIsReplayedFromItsBeginning) {
  StepHistory history(20, 100);
  history.add(20, {});
  history.add(21, {});
  EXPECT_EQ(history.first_needed(22), 20);
  EXPECT_EQ(sequences(history, 22), (std::vector<std::int64_t>{20, 21}));
}

TEST(StepHistory, ASilenceLeavesOutWhatNoAnswerSeesAnyMore) {
  StepHistory history(0, 4);
  for (std::int64_t n = 0; n < 3; ++n) history.add(n, {});
  // Steps 3 to 4 were silent: step 5 sees 2, 3 and 4.
  EXPECT_EQ(history.first_needed(5), 2);
  EXPECT_EQ(sequences(history, 5), (std::vector<std::int64_t>{2}));
  EXPECT_TRUE(sequences(history, 50).empty());
}

}  // namespace
}  // namespace cortex
