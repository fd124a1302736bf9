// Loads over ports that are no connections: who sends when, and what is counted at the end.
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "load_poller.h"
#include "load_sessions.h"
#include "load_windows.h"

namespace cortex::testing {
namespace {

/// Answers at once, or never.
struct FakePort final : LoadPort {
  explicit FakePort(bool has_answers) : answers(has_answers) {}
  void send(const LoadRequest& request) override {
    ++sent;
    if (sent >= slow_from) std::this_thread::sleep_for(slow_for);
    if (answers) on_reply({.sequence = request.sequence, .behavior = behavior});
  }
  void close() override { closed = true; }

  bool answers;
  int slow_from = 1;  // which send is the first that takes long
  std::chrono::milliseconds slow_for{0};
  std::array<float, 2> behavior = {};
  int sent = 0;
  bool closed = false;
};

/// Counts how often its descriptor was readable.
struct Reader final : LoadPoller::Client {
  void on_readable() override {
    ++calls;
    std::uint64_t count = 0;
    EXPECT_EQ(::read(fd, &count, sizeof count), static_cast<ssize_t>(sizeof count));
  }
  int fd = ::eventfd(0, EFD_NONBLOCK);
  int calls = 0;
};

TEST(LoadPoller, PollingOrAsleepSeesWhatComesAndReturnsWhereNothingDoes) {
  constexpr TimeNs kSecond = 1'000'000'000;
  for (const TimeNs poll_ns : {TimeNs{0}, TimeNs{1000}, 100 * kSecond}) {
    LoadPoller poller(poll_ns);
    Reader reader;
    poller.add(reader.fd, reader);
    poller.wait(RealClock::instance().now() + 1'000'000);
    EXPECT_EQ(reader.calls, 0);
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(reader.fd, &one, sizeof one), static_cast<ssize_t>(sizeof one));
    poller.wait(RealClock::instance().now() + 1000 * kSecond);
    EXPECT_EQ(reader.calls, 1);
    ::close(reader.fd);
  }
}

class LoadOnFakes : public ::testing::Test {
 protected:
  LoadOnFakes() {
    facts_.units = 8;
    facts_.bins = 30;
    facts_.max_events = 64;
    facts_.outputs = 2;
    options_.windows = true;
    options_.rate_hz = 1000;
  }
  std::vector<std::unique_ptr<LoadPort>> ports(const std::vector<bool>& which_answer) {
    std::vector<std::unique_ptr<LoadPort>> made;
    for (const bool answers : which_answer) {
      auto port = std::make_unique<FakePort>(answers);
      fakes_.push_back(port.get());
      made.push_back(std::move(port));
    }
    return made;
  }

  LoadFacts facts_;
  LoadOptions options_;
  LoadPoller poller_;
  LoadTally tally_;
  std::vector<FakePort*> fakes_;
};

TEST_F(LoadOnFakes, ConnectionsTakeTurns) {
  LoadEvents events(facts_, options_);
  WindowLoad load(poller_, ports({true, true, true}), events, options_, {});
  load.run({.seconds = 0.1, .drain_s = 1}, tally_);
  ASSERT_GT(tally_.answered, 10);
  for (const FakePort* fake : fakes_)
    EXPECT_NEAR(fake->sent, static_cast<double>(tally_.answered) / 3, 1);
}

TEST_F(LoadOnFakes, AWindowThatWaitsWhenTheLoadIsOverIsUnansweredAndNotLost) {
  LoadEvents events(facts_, options_);
  WindowLoad load(poller_, ports({false}), events, options_, {});
  load.run({.seconds = 0.1, .drain_s = 0.05}, tally_);
  EXPECT_EQ(tally_.answered, 0);
  EXPECT_GT(tally_.unanswered, 1) << "one was sent, the others waited";
  EXPECT_EQ(tally_.unanswered, tally_.offered);
  EXPECT_EQ(tally_.lost, 0);
  EXPECT_EQ(load.lost_connections(), 0);
  fakes_[0]->on_reply({});  // too late to count, or to be a fault
  EXPECT_EQ(load.lost_connections(), 0);
}

TEST_F(LoadOnFakes, ASessionThatIsBehindWhenTheLoadIsOverIsUnansweredAndNotLost) {
  LoadEvents events(facts_, options_);
  constexpr TimeNs kPeriod = 10'000'000;
  SessionLoad load(poller_, ports({true, false}), events, {.first = 0, .all = 2}, kPeriod, 2,
                   false);
  load.run({.seconds = 0.1, .drain_s = 0.05}, tally_);
  EXPECT_EQ(tally_.answered, fakes_[0]->sent);
  EXPECT_EQ(tally_.unanswered, fakes_[1]->sent);
  EXPECT_GT(tally_.unanswered, 0);
  EXPECT_EQ(tally_.lost, 0);
  EXPECT_EQ(load.lost_sessions(), 0);
  fakes_[1]->on_reply({});
  EXPECT_EQ(load.lost_sessions(), 0);
}

TEST_F(LoadOnFakes, WhatFellDueWhileTheLoadItselfStoodStillIsSentLate) {
  LoadEvents events(facts_, options_);
  constexpr TimeNs kPeriod = 10'000'000;
  WindowLoad windows(poller_, ports({true}), events, options_, {});
  fakes_[0]->slow_from = 50;
  fakes_[0]->slow_for = std::chrono::milliseconds(2);  // slower than they fall due, to the end
  windows.run({.seconds = 0.2, .drain_s = 30}, tally_);
  EXPECT_NEAR(static_cast<double>(tally_.offered), 200, 1);
  EXPECT_EQ(tally_.answered, tally_.offered);

  LoadTally tally;
  constexpr int kSessions = 100;  // more than are served in a turn
  SessionLoad sessions(poller_, ports(std::vector<bool>(kSessions, true)), events,
                       {.first = 0, .all = kSessions}, kPeriod, 2, false);
  fakes_[1]->slow_from = 5;
  fakes_[1]->slow_for = std::chrono::milliseconds(30);
  sessions.run({.seconds = 0.2, .drain_s = 30}, tally);
  EXPECT_EQ(tally.offered, 20 * kSessions);
  EXPECT_EQ(tally.answered, 20 * kSessions);
}

}  // namespace
}  // namespace cortex::testing
