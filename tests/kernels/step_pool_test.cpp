#include "core/step_pool.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace cortex {
namespace {

TEST(StepPool, EveryChunkRunsExactlyOnceHoweverManyThereAre) {
  for (const int threads : {1, 2, 3, 5}) {
    StepPool pool(threads);
    for (int step = 0; step < 200; ++step) {
      pool.begin();
      for (const int chunks : {0, 1, 2, 7, 64}) {
        std::vector<std::atomic<int>> ran(static_cast<std::size_t>(chunks));
        pool.run(chunks, [&](int chunk, int thread) {
          ASSERT_LT(thread, threads);
          ran[static_cast<std::size_t>(chunk)].fetch_add(1);
        });
        for (const auto& count : ran) ASSERT_EQ(count.load(), 1) << chunks << " chunks";
      }
      pool.end();
    }
  }
}

// A helper may come to a run as late as it likes, with the numbers of the run before in its hands.
TEST(StepPool, RunsOfChangingSizeOneRightAfterTheOtherKeepTheirChunksApart) {
  constexpr int kMost = 40;
  StepPool pool(6);  // more than there are cores, so that helpers lose theirs anywhere
  std::vector<std::atomic<int>> ran(kMost);
  pool.begin();
  for (int run = 0; run < 1'000'000; ++run) {
    const int chunks = 2 + run * 7 % (kMost - 1);
    pool.run(chunks, [&](int chunk, int) { ran[static_cast<std::size_t>(chunk)].fetch_add(1); });
    for (int i = 0; i < kMost; ++i)
      ASSERT_EQ(ran[static_cast<std::size_t>(i)].exchange(0), i < chunks ? 1 : 0)
          << "chunk " << i << " of " << chunks << ", run " << run;
  }
  pool.end();
}

TEST(StepPool, WhatAChunkWroteIsSeenAfterTheRun) {
  StepPool pool(3);
  std::vector<int> values(300);
  for (int step = 0; step < 500; ++step) {
    pool.begin();
    pool.run(300, [&](int chunk, int) { values[static_cast<std::size_t>(chunk)] = step; });
    for (const int v : values) ASSERT_EQ(v, step);
    pool.end();
  }
}

TEST(StepPool, RunsWithoutHelpersOutsideAStep) {
  StepPool pool(2);
  std::vector<int> threads;
  pool.run(5, [&](int, int thread) { threads.push_back(thread); });
  EXPECT_EQ(threads, std::vector<int>(5, 0));
}

TEST(StepPool, AThreadThatIsHeldUpDelaysOnlyItsOwnChunk) {
  StepPool pool(2);
  pool.begin();
  std::atomic<int> by_others{0};
  std::atomic<bool> held{false};
  pool.run(20, [&](int, int) {
    if (!held.exchange(true)) {
      // Nobody else is needed for the other nineteen.
      while (by_others.load() < 19) std::this_thread::yield();
      return;
    }
    by_others.fetch_add(1);
  });
  EXPECT_EQ(by_others.load(), 19);
  pool.end();
}

}  // namespace
}  // namespace cortex
