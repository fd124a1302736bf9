#include "scheduler/scheduler.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <map>
#include <vector>

namespace cortex::testing {
namespace {

constexpr TimeNs kUs = 1000;
constexpr TimeNs kMs = 1000 * kUs;

struct Fate {
  WindowOffer offer;
  Verdict verdict = Verdict::taken;
  TimeNs offered = 0;
  TimeNs finished = -1;  // answered
  bool shed = false;
};

/// A device whose batches take what the scheduler predicts, under a virtual clock.
class Device {
 public:
  Device(const SchedulerOptions& options, const CostModel& cost) : scheduler_(options, cost) {}

  TimeNs now() const { return now_; }
  Scheduler& scheduler() { return scheduler_; }
  const std::map<std::uint64_t, Fate>& fates() const { return fates_; }

  Verdict offer(WindowOffer offer) {
    offer.key = ++last_;
    const Verdict verdict = scheduler_.offer(offer, now_);
    fates_[offer.key] = {.offer = offer, .verdict = verdict, .offered = now_};
    if (!busy_) start();
    return verdict;
  }
  /// Lets time pass; batches end and begin in it.
  void run_until(TimeNs time) {
    while (busy_ && free_at_ <= time) {
      now_ = free_at_;
      for (const Work& work : running_) {
        Fate& fate = fates_.at(work.key);
        EXPECT_EQ(fate.finished, -1) << "answered twice";
        fate.finished = now_;
        scheduler_.release_window(work.tenant);
      }
      // As if nothing was learned: costs stay what they were predicted to be.
      scheduler_.failed();
      busy_ = false;
      start();
    }
    now_ = std::max(now_, time);
  }
  void drain() {
    while (busy_) run_until(free_at_);
  }

 private:
  void start() {
    const FormedBatch& batch = scheduler_.next_windows(now_);
    for (const Work& work : batch.shed) {
      fates_.at(work.key).shed = true;
      scheduler_.release_window(work.tenant);
    }
    running_ = batch.taken;
    busy_ = !running_.empty();
    free_at_ = now_ + batch.predicted;
  }

  Scheduler scheduler_;
  TimeNs now_ = 0;
  TimeNs free_at_ = 0;
  bool busy_ = false;
  std::uint64_t last_ = 0;
  std::vector<Work> running_;
  std::map<std::uint64_t, Fate> fates_;
};

CostModel any_cost() {
  const TimeNs batch = *rc::gen::inRange<TimeNs>(0, 2 * kMs);
  const TimeNs row = *rc::gen::inRange<TimeNs>(10 * kUs, 2 * kMs);
  const TimeNs key = *rc::gen::inRange<TimeNs>(0, 5 * kUs);
  return CostModel(8, std::vector<BatchCost>{{1, 0, batch + row},
                                             {1, 100, batch + row + 100 * key},
                                             {8, 0, batch + 8 * row},
                                             {8, 800, batch + 8 * row + 800 * key}});
}

struct Arrival {
  TimeNs gap = 0;
  WindowOffer offer;
};

rc::Gen<Arrival> any_arrival(int tenants) {
  return rc::gen::build<Arrival>(
      rc::gen::set(&Arrival::gap, rc::gen::element<TimeNs>(0, 0, 100 * kUs, kMs, 5 * kMs)),
      rc::gen::set(
          &Arrival::offer,
          rc::gen::build<WindowOffer>(
              rc::gen::set(&WindowOffer::deadline, rc::gen::inRange<TimeNs>(0, 30 * kMs)),
              rc::gen::set(&WindowOffer::keys, rc::gen::inRange(0, 200)),
              rc::gen::set(&WindowOffer::tenant,
                           rc::gen::inRange<std::uint32_t>(0, static_cast<std::uint32_t>(tenants))),
              rc::gen::set(&WindowOffer::best_effort,
                           rc::gen::element(false, false, false, true)))));
}

RC_GTEST_PROP(Scheduler, WhatItTakesIsInTimeWhateverComesLaterAndAnsweredOnce, ()) {
  const int tenants = *rc::gen::inRange(1, 4);
  Device device({.max_batch = 8, .max_windows = 40, .max_tenants = tenants}, any_cost());
  const auto arrivals = *rc::gen::container<std::vector<Arrival>>(any_arrival(tenants));
  for (const Arrival& arrival : arrivals) {
    device.run_until(device.now() + arrival.gap);
    WindowOffer offer = arrival.offer;
    offer.deadline += device.now();
    if (offer.keys % 11 == 0) offer.deadline = kNever;
    (void)device.offer(offer);
  }
  device.drain();
  RC_ASSERT(!device.scheduler().windows_waiting());
  int taken = 0;
  for (const auto& [key, fate] : device.fates()) {
    if (fate.verdict != Verdict::taken) {
      RC_ASSERT(fate.finished == -1 && !fate.shed);
      continue;
    }
    ++taken;
    RC_ASSERT(!fate.shed);
    RC_ASSERT(fate.finished >= fate.offered);
    if (!fate.offer.best_effort) RC_ASSERT(fate.finished <= fate.offer.deadline);
  }
  RC_CLASSIFY(taken > 10, "more than ten taken");
  RC_CLASSIFY(taken < static_cast<int>(arrivals.size()), "some refused");
}

RC_GTEST_PROP(Scheduler, NoTenantIsStarvedByOthersHoweverShortTheirDeadlinesAndManyTheirRequests,
              ()) {
  const int hogs = *rc::gen::inRange(1, 4);
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, *rc::gen::inRange<TimeNs>(1, 3) * kMs}});
  const TimeNs one = cost.predict(1, 0);
  // The modest tenant asks for half of its fair share, evenly.
  const TimeNs period = 2 * (hogs + 1) * one;
  const TimeNs deadline = *rc::gen::inRange<TimeNs>(3, 20) * one;
  const TimeNs hog_deadline = *rc::gen::inRange<TimeNs>(11, 100) * one / 10;
  Device device({.max_batch = 8, .max_windows = 64, .max_tenants = hogs + 1}, cost);
  TimeNs next = 3 * period;
  int asked = 0, taken = 0;
  for (TimeNs t = 0; t < 300 * period; t += one / 3) {
    for (; next <= t; next += period) {
      device.run_until(next);
      ++asked;
      taken += device.offer({.deadline = next + deadline, .tenant = 0}) == Verdict::taken ? 1 : 0;
    }
    device.run_until(t);
    for (std::uint32_t hog = 1; hog <= static_cast<std::uint32_t>(hogs); ++hog)
      (void)device.offer({.deadline = t + hog_deadline, .tenant = hog});
  }
  device.drain();
  int answered = 0;
  for (const auto& [key, fate] : device.fates())
    if (fate.offer.tenant == 0 && fate.finished >= 0 && fate.finished <= fate.offer.deadline)
      ++answered;
  RC_LOG() << "taken " << taken << ", in time " << answered << " of " << asked;
  RC_ASSERT(answered == taken);
  RC_ASSERT(answered > 0.9 * asked);
}

TEST(Scheduler, ATenantThatFloodsWithoutDeadlinesLeavesTheTimeToThoseWithOne) {
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, 10 * kMs}});
  const TimeNs one = cost.predict(1, 0);
  Device device({.max_batch = 8, .max_windows = 64, .max_tenants = 2}, cost);
  for (int i = 0; i < 64; ++i) (void)device.offer({.tenant = 1});
  int taken = 0;
  for (int i = 1; i <= 100; ++i) {
    device.run_until(i * 2 * one);
    taken += device.offer({.deadline = device.now() + 3 * one, .tenant = 0}) == Verdict::taken;
    while (device.offer({.tenant = 1}) == Verdict::taken) {
    }
  }
  EXPECT_GT(taken, 95);
  device.drain();
  for (const auto& [key, fate] : device.fates())
    EXPECT_EQ(fate.finished >= 0, fate.verdict == Verdict::taken) << "each gets its turn";
}

TEST(Scheduler, WithoutADeadlineWorkIsDoneThoughOthersKeepTheDeviceBusy) {
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, kMs}});
  const TimeNs one = cost.predict(1, 0);
  Device device({.max_batch = 8, .max_windows = 64, .max_tenants = 2}, cost);
  ASSERT_EQ(device.offer({.deadline = 2 * one, .tenant = 0}), Verdict::taken);
  ASSERT_EQ(device.offer({.tenant = 1}), Verdict::taken);
  const std::uint64_t background = 2;
  for (TimeNs t = 0; t < 200 * one; t += one / 2) {
    device.run_until(t);
    (void)device.offer({.deadline = t + 3 * one, .tenant = 0});
  }
  EXPECT_GE(device.fates().at(background).finished, 0);
}

TEST(Scheduler, AfterAClockJumpWhatIsLostIsShedAndTheRestGoesOn) {
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, kMs}});
  Scheduler scheduler({.max_batch = 8, .max_windows = 64}, cost);
  for (std::uint64_t k = 0; k < 5; ++k)
    ASSERT_EQ(scheduler.offer({.key = k, .deadline = 100 * kMs}, 0), Verdict::taken);
  const TimeNs later = 3'600'000 * kMs;
  EXPECT_EQ(scheduler.next_windows(later).shed.size(), 5U);
  for (int i = 0; i < 5; ++i) scheduler.release_window(0);
  EXPECT_EQ(scheduler.offer({.key = 9, .deadline = later + 2 * kMs}, later), Verdict::taken);
  EXPECT_EQ(scheduler.next_windows(later).taken.size(), 1U);
  scheduler.finished(later + kMs);
  // And back, which no monotonic clock does.
  EXPECT_EQ(scheduler.offer({.key = 10, .deadline = 3 * kMs}, 0), Verdict::taken);
  EXPECT_EQ(scheduler.next_windows(0).taken.size(), 1U);
}

TEST(Scheduler, ABatchBehindAnotherIsTimedFromWhenTheDeviceWasItsOwn) {
  Scheduler scheduler({.max_batch = 1, .max_streams = 4},
                      CostModel(1, std::vector<BatchCost>{{1, 0, 10 * kMs}}));
  StepFlow flow;
  const auto dispatch = [&](TimeNs now) {
    scheduler.push_step({.key = 1, .arrived = now}, flow);
    EXPECT_EQ(scheduler.next_steps(now).taken.size(), 1U);
  };
  dispatch(0);
  for (int n = 1; n <= 100; ++n) {
    dispatch((10 * n - 9) * kMs);
    scheduler.finished(10 * n * kMs);
  }
  EXPECT_NEAR(static_cast<double>(scheduler.cost().predict(1, 0)), 10.0 * kMs, 0.5 * kMs);
}

TEST(Scheduler, WhatComesWaitsForBothBatchesInFlight) {
  Scheduler scheduler({.max_batch = 1, .max_windows = 8},
                      CostModel(1, std::vector<BatchCost>{{1, 0, 10 * kMs}}));
  const auto offer = [&](TimeNs deadline) { return scheduler.offer({.deadline = deadline}, 0); };
  for (int i = 0; i < 2; ++i) {
    ASSERT_EQ(offer(100 * kMs), Verdict::taken);
    ASSERT_EQ(scheduler.next_windows(0).taken.size(), 1U);
  }
  EXPECT_EQ(offer(29 * kMs), Verdict::misses);
  // The first has taken 4 ms less than was predicted.
  scheduler.finished(6 * kMs);
  EXPECT_EQ(scheduler.offer({.deadline = 29 * kMs}, 6 * kMs), Verdict::taken);
}

TEST(Scheduler, APredictionThatIsTooHighDoesNotRefuseForEver) {
  CostModel cost(8, std::vector<BatchCost>{{1, 0, kMs}});
  for (int i = 0; i < 200; ++i) cost.observe({1, 0, 20 * kMs});
  Scheduler scheduler({.max_batch = 8, .max_windows = 64}, cost);
  int refused = 0;
  while (scheduler.offer({.deadline = 2 * kMs}, 0) != Verdict::taken && refused < 1000) ++refused;
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 300);
}

TEST(Scheduler, WithdrawnWindowsAreGoneAndTheirShareIsFree) {
  const CostModel cost(8, std::vector<BatchCost>{{1, 0, kMs}});
  Scheduler scheduler({.max_batch = 8, .max_windows = 4, .max_tenant_windows = 2}, cost);
  ASSERT_EQ(scheduler.offer({.key = 1}, 0), Verdict::taken);
  ASSERT_EQ(scheduler.offer({.key = 2}, 0), Verdict::taken);
  EXPECT_EQ(scheduler.offer({.key = 3}, 0), Verdict::tenant_full);
  EXPECT_EQ(scheduler.erase_windows([&](const Work& work) {
    if (work.key != 1) return false;
    scheduler.release_window(work.tenant);
    return true;
  }),
            1);
  EXPECT_EQ(scheduler.offer({.key = 3}, 0), Verdict::taken);
  const FormedBatch& batch = scheduler.next_windows(0);
  ASSERT_FALSE(batch.taken.empty());
  EXPECT_EQ(batch.taken[0].key, 2U);
}

class Streams : public ::testing::Test {
 protected:
  // A batch of any size up to eight takes 1.1 ms.
  Scheduler scheduler_{{.max_batch = 8,
                        .max_streams = 64,
                        .max_tenants = 2,
                        .max_utilisation = 0.9,
                        .max_tenant_utilisation = 0.5},
                       CostModel(8, std::vector<BatchCost>{{1, 0, kMs}, {8, 0, kMs}})};
  using Door = Scheduler::Door;
};

TEST_F(Streams, SessionsAreAdmittedByRateAndTheirTenantsShare) {
  // Alone a session's batches are of one: a thousand steps a second.
  EXPECT_EQ(scheduler_.admit_session({.rate_hz = 510}, 0).door, Door::over_tenant_share);
  const StepFlow half{.rate_hz = 450};
  EXPECT_EQ(scheduler_.admit_session(half, 0).door, Door::open);
  const auto refused = scheduler_.admit_session({.tenant = 1, .rate_hz = 5000}, 0);
  EXPECT_EQ(refused.door, Door::over_capacity);
  EXPECT_EQ(refused.reserved_hz, 450);
  EXPECT_GT(refused.capacity_hz, 450);
  EXPECT_EQ(scheduler_.admit_session({.rate_hz = 0}, 0).door, Door::open) << "reserves nothing";
  EXPECT_EQ(scheduler_.reserved_hz(), 450);
  scheduler_.release_session(half);
  EXPECT_EQ(scheduler_.reserved_hz(), 0);
}

TEST_F(Streams, ASessionThatSendsFasterThanItsRateGoesBehindThoseThatKeepTheirs) {
  StepFlow hasty{.rate_hz = 50}, steady{.rate_hz = 50};
  for (int i = 0; i < 10; ++i)
    scheduler_.push_step({.key = 1, .arrived = 0, .deadline = 5 * kMs}, hasty);
  scheduler_.push_step({.key = 2, .arrived = kMs, .deadline = 21 * kMs}, steady);
  // Steps that a network held up come at once: three are within the burst.
  const FormedBatch& batch = scheduler_.next_steps(kMs);
  std::vector<std::uint64_t> order;
  for (const Work& work : batch.taken) order.push_back(work.key);
  ASSERT_GE(order.size(), 4U);
  EXPECT_EQ(std::vector(order.begin(), order.begin() + 4),
            (std::vector<std::uint64_t>{1, 1, 1, 2}));
}

TEST_F(Streams, WhileSessionsAreBehindForLongNoOtherIsAdmittedHoweverMuchIsPredictedToFit) {
  StepFlow flow{.rate_hz = 50};
  ASSERT_EQ(scheduler_.admit_session(flow, 0).door, Door::open);
  scheduler_.push_step({.key = 1, .arrived = 0, .deadline = 20 * kMs}, flow);
  (void)scheduler_.next_steps(30 * kMs);
  scheduler_.finished(31 * kMs);
  EXPECT_EQ(scheduler_.behind_hz(), 50);
  StepFlow other{.tenant = 1, .rate_hz = 50};
  EXPECT_EQ(scheduler_.admit_session(other, 40 * kMs).door, Door::open) << "a stall explains it";
  scheduler_.release_session(other);
  const auto refused = scheduler_.admit_session(other, 1100 * kMs);
  EXPECT_EQ(refused.door, Door::behind);
  EXPECT_EQ(refused.behind_hz, 50);
  EXPECT_EQ(scheduler_.admit_session({.tenant = 1, .rate_hz = 0}, 1100 * kMs).door, Door::open);
  scheduler_.push_step({.key = 1, .arrived = 1100 * kMs, .deadline = 1120 * kMs}, flow);
  (void)scheduler_.next_steps(1100 * kMs);
  EXPECT_EQ(scheduler_.behind_hz(), 0) << "in time again";
  EXPECT_EQ(scheduler_.admit_session(other, 1100 * kMs).door, Door::open);
  scheduler_.release_session(other);
  // And the one that is behind closes.
  scheduler_.finished(1101 * kMs);
  scheduler_.push_step({.key = 1, .arrived = 1102 * kMs, .deadline = 1122 * kMs}, flow);
  (void)scheduler_.next_steps(1200 * kMs);
  EXPECT_EQ(scheduler_.behind_hz(), 50);
  scheduler_.release_session(flow);
  EXPECT_EQ(scheduler_.behind_hz(), 0);
}

TEST_F(Streams, AGapStandsForTimeThatHasPassed) {
  StepFlow flow{.rate_hz = 50};
  scheduler_.push_step({.key = 1, .arrived = 0, .deadline = 20 * kMs}, flow);
  (void)scheduler_.next_steps(0);
  scheduler_.finished(kMs);
  scheduler_.push_step({.key = 1, .arrived = 200 * kMs, .deadline = 220 * kMs, .forwards = 10},
                       flow);
  const FormedBatch& batch = scheduler_.next_steps(200 * kMs);
  ASSERT_EQ(batch.taken.size(), 1U);
  EXPECT_TRUE(batch.taken[0].promised);
}

TEST_F(Streams, AStepIsNeverGivenUpHoweverLateItIs) {
  StepFlow flow{.rate_hz = 50};
  scheduler_.push_step({.key = 1, .arrived = 0, .deadline = 1}, flow);
  const FormedBatch& batch = scheduler_.next_steps(10'000 * kMs);
  EXPECT_TRUE(batch.shed.empty());
  ASSERT_EQ(batch.taken.size(), 1U);
  EXPECT_FALSE(batch.taken[0].promised);
}

TEST_F(Streams, WindowsOnAStreamModelLeaveTheReservedTimeToItsSessions) {
  const StepFlow flow{.rate_hz = 400};
  const WindowOffer window{.deadline = 30 * kMs, .forwards = 20};
  Scheduler idle = scheduler_;
  EXPECT_EQ(idle.offer(window, 0), Verdict::taken);
  ASSERT_EQ(scheduler_.admit_session(flow, 0).door, Door::open);
  EXPECT_EQ(scheduler_.offer(window, 0), Verdict::misses);
}

}  // namespace
}  // namespace cortex::testing
