#include "serve/mailbox.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <memory>
#include <thread>
#include <vector>

namespace cortex {
namespace {

struct Letter final : Mailbox::Item {
  void deliver() override { log->push_back(number); }
  int number = 0;
  std::vector<int>* log = nullptr;
};

TEST(Mailbox, DeliversInOrderAndSignalsOnce) {
  Mailbox mailbox;
  std::vector<int> log;
  Letter letters[3];
  for (int i = 0; i < 3; ++i) {
    letters[i].number = i;
    letters[i].log = &log;
    mailbox.post(letters[i]);
  }
  pollfd p{mailbox.fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 0), 1);
  mailbox.deliver_all();
  EXPECT_EQ(log, (std::vector<int>{0, 1, 2}));
  EXPECT_EQ(::poll(&p, 1, 0), 0);
}

TEST(Mailbox, WakesOnceForWhatWasPostedWithout) {
  Mailbox mailbox;
  std::vector<int> log;
  Letter letters[2];
  for (Letter& letter : letters) {
    letter.log = &log;
    mailbox.post(letter, false);
  }
  pollfd p{mailbox.fd(), POLLIN, 0};
  EXPECT_EQ(::poll(&p, 1, 0), 0);
  mailbox.wake();
  EXPECT_EQ(::poll(&p, 1, 0), 1);
  mailbox.deliver_all();
  EXPECT_EQ(log.size(), 2U);
  mailbox.wake();
  EXPECT_EQ(::poll(&p, 1, 0), 0) << "nothing was posted since";
}

TEST(Mailbox, LosesNothingBetweenThreads) {
  constexpr int kThreads = 4;
  constexpr int kEach = 5000;
  Mailbox mailbox;
  std::vector<int> log;
  auto letters = std::make_unique<Letter[]>(kThreads * kEach);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = t * kEach; i < (t + 1) * kEach; ++i) {
        letters[i].number = i;
        letters[i].log = &log;
        mailbox.post(letters[i]);
      }
    });
  pollfd p{mailbox.fd(), POLLIN, 0};
  while (log.size() < kThreads * kEach && ::poll(&p, 1, 30'000) == 1) mailbox.deliver_all();
  for (auto& thread : threads) thread.join();
  ASSERT_EQ(log.size(), static_cast<std::size_t>(kThreads * kEach));
  std::vector<int> last(kThreads, -1);
  for (const int number : log) {
    EXPECT_GT(number, last[number / kEach]);
    last[number / kEach] = number;
  }
}

}  // namespace
}  // namespace cortex
