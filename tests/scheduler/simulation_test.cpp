#include "scheduler/simulation.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <algorithm>
#include <map>

namespace cortex::testing {
namespace {

WorkloadOptions windows_at(double utilisation, Load load = Load::poisson) {
  return {.load = load,
          .utilisation = utilisation,
          .seconds = 20,
          .ramp = 2,
          .deadline_ms = 50,
          .deadline_spread = 0.5,
          .cost = {.batch_us = 1000, .row_us = 2000, .jitter = 0.1}};
}

WorkloadOptions sessions_at(double utilisation) {
  return {.load = Load::sessions,
          .utilisation = utilisation,
          .seconds = 10,
          .ramp = 5,
          .keys = 40,
          .deadline_ms = 20,
          .cost = {.batch_us = 100, .row_us = 150, .jitter = 0.1}};
}

std::unique_ptr<SchedulingPolicy> cortex_policy(const WorkloadOptions& o) {
  return make_cortex_policy({.max_batch = o.max_batch},
                            simulated_warm_up(o.cost, o.keys, o.max_batch, 1));
}

SimulationResult run(const WorkloadOptions& o, SchedulingPolicy& policy) {
  return simulate(make_workload(o), o.cost, 1, policy);
}

TEST(Simulation, UnderOverloadAtLeastNineTenthsOfTheCapacityAreAnsweredInTime) {
  const WorkloadOptions o = windows_at(1.2);
  const auto policy = cortex_policy(o);
  const SimulationResult ours = run(o, *policy);
  const SimulationResult fifo = run(o, *make_fifo_policy({.max_batch = o.max_batch}));
  EXPECT_GE(ours.goodput_fraction, 0.9);
  EXPECT_LT(fifo.goodput_fraction, 0.5);
  EXPECT_LT(ours.broken_rate, 0.02) << "of what was taken";
}

TEST(Simulation, FewerRequestsMissThanWithAnyOtherPolicy) {
  for (const Load load : {Load::poisson, Load::bursty})
    for (const double utilisation : {0.8, 1.0, 1.4}) {
      const WorkloadOptions o = windows_at(utilisation, load);
      const PolicyOptions options{.max_batch = o.max_batch};
      const auto ours = run(o, *cortex_policy(o));
      for (const auto& other :
           {make_fifo_policy(options), make_fixed_window_policy(options, 5'000'000),
            make_plain_edf_policy(options)})
        EXPECT_LT(ours.miss_rate, run(o, *other).miss_rate) << utilisation << other->name();
    }
}

TEST(Simulation, SessionsBeyondTheCapacityAreRefusedAndTheOthersStayInTime) {
  const WorkloadOptions o = sessions_at(1.3);
  const SimulationResult r = run(o, *cortex_policy(o));
  EXPECT_GT(r.sessions_refused, 0);
  EXPECT_GT(r.goodput_fraction, 0.8);
  EXPECT_LT(r.broken_rate, 1e-3);
}

/// Whatever is predicted, every session is let in.
std::unique_ptr<SchedulingPolicy> hopeful_policy(const WorkloadOptions& o) {
  return make_cortex_policy({.max_batch = o.max_batch, .max_utilisation = 100},
                            simulated_warm_up(o.cost, o.keys, o.max_batch, 1));
}

TEST(Simulation, WhereMoreSessionsWereLetInThanTheDeviceCanServeFewBearItAndTheOthersAreInTime) {
  for (const double utilisation : {1.1, 1.5}) {
    WorkloadOptions o = sessions_at(utilisation);
    o.ramp = 0.5;  // before the door closes because some are behind
    o.seconds = 20;
    const Workload load = make_workload(o);
    std::vector<int> steps(static_cast<std::size_t>(load.sessions), 0), late = steps;
    const auto policy = hopeful_policy(o);
    const SimulationResult r = simulate(load, o.cost, 1, *policy, [&](const Answered& a) {
      const Request& request = load.requests[a.id];
      // Of the second half, when it is settled who bears it.
      if (request.arrived < load.counted_from + 10'000'000'000) return;
      ++steps[static_cast<std::size_t>(request.session)];
      if (a.finished > request.deadline) ++late[static_cast<std::size_t>(request.session)];
    });
    EXPECT_EQ(r.sessions_refused, 0);
    EXPECT_GT(r.goodput_fraction, 0.85) << utilisation;
    int spared = 0;
    for (std::size_t s = 0; s < steps.size(); ++s)
      if (late[s] * 10 < steps[s]) ++spared;
    EXPECT_GT(spared, 0.8 / utilisation * load.sessions) << utilisation;
  }
}

TEST(Simulation, AStallUnderFullLoadPasses) {
  WorkloadOptions o = sessions_at(1);
  o.seconds = 30;
  o.cost.stall_hz = 0.1;
  o.cost.stall_us = 100'000;
  const SimulationResult r = run(o, *hopeful_policy(o));
  EXPECT_GT(r.late, 0);
  EXPECT_GT(r.goodput_fraction, 0.8);
}

TEST(Simulation, SessionsThatAllOpenBeforeAnyStepHasRunOnASlowerMachineThanMeasuredAreServed) {
  WorkloadOptions o = sessions_at(1.2);
  o.ramp = 0.001;
  o.seconds = 20;
  SimulatedCost idle = o.cost;
  idle.batch_us /= 2;
  idle.row_us /= 2;
  const auto policy = make_cortex_policy({.max_batch = o.max_batch},
                                         simulated_warm_up(idle, o.keys, o.max_batch, 1));
  const SimulationResult r = run(o, *policy);
  EXPECT_EQ(r.sessions_refused, 0) << "nothing was known yet";
  EXPECT_GT(r.goodput_fraction, 0.8);
}

TEST(Simulation, IsTheSameForTheSameSeed) {
  const WorkloadOptions o = windows_at(1.1, Load::bursty);
  const SimulationResult a = run(o, *cortex_policy(o)), b = run(o, *cortex_policy(o));
  EXPECT_EQ(a.in_time, b.in_time);
  EXPECT_EQ(a.batches, b.batches);
  EXPECT_EQ(a.p99_ms, b.p99_ms);
  WorkloadOptions other = o;
  other.seed = 2;
  EXPECT_NE(make_workload(other).requests.size(), make_workload(o).requests.size());
}

RC_GTEST_PROP(Simulation, StepsRunInOrderOneAtATimeNoneIsSkippedAndNothingIsAnsweredTwice, ()) {
  WorkloadOptions o = sessions_at(*rc::gen::element(0.3, 0.9, 1.5));
  o.seconds = 2;
  o.ramp = 1;
  o.seed = *rc::gen::arbitrary<std::uint32_t>();
  o.cost.stall_hz = *rc::gen::element(0.0, 5.0);
  o.cost.stall_us = 100'000;
  const Workload load = make_workload(o);
  std::vector<int> outcomes(load.requests.size(), 0);
  std::map<int, std::vector<Answered>> answered;
  std::map<int, int> refused;
  const auto policy = cortex_policy(o);
  (void)simulate(load, o.cost, o.seed, *policy, [&](const Answered& a) {
    ++outcomes[a.id];
    const int session = load.requests[a.id].session;
    if (a.outcome == Outcome::answered)
      answered[session].push_back(a);
    else
      ++refused[session];
    RC_ASSERT(a.outcome != Outcome::shed);
  });
  RC_ASSERT(std::all_of(outcomes.begin(), outcomes.end(), [](int n) { return n == 1; }));
  for (const auto& [session, steps] : answered) {
    RC_ASSERT(refused.count(session) == 0U);
    for (std::size_t i = 1; i < steps.size(); ++i) {
      RC_ASSERT(load.requests[steps[i - 1].id].arrived < load.requests[steps[i].id].arrived);
      RC_ASSERT(steps[i - 1].finished <= steps[i].started);
    }
  }
}

TEST(Simulation, AfterAStallOf100MsEveryStreamIsInTimeAgain) {
  WorkloadOptions o = sessions_at(0.6);
  o.cost.stall_hz = 0.2;
  o.cost.stall_us = 100'000;
  const SimulationResult r = run(o, *cortex_policy(o));
  // Two stalls or three, each loses the deadlines of five steps or six and of those behind them.
  EXPECT_GT(r.late, 0);
  EXPECT_LT(r.broken_rate, 0.1);
}

RC_GTEST_PROP(Workload, OffersWhatWasAskedFor, ()) {
  WorkloadOptions o = *rc::gen::element(windows_at(1), windows_at(1, Load::bursty), sessions_at(1));
  o.utilisation = *rc::gen::element(0.5, 1.0, 1.5);
  o.seconds = o.load == Load::sessions ? 10 : 200;
  o.seed = *rc::gen::arbitrary<std::uint32_t>();
  const Workload load = make_workload(o);
  const auto counted =
      std::count_if(load.requests.begin(), load.requests.end(),
                    [&](const Request& r) { return r.arrived >= load.counted_from; });
  const double wanted = o.utilisation * load.capacity_hz * load.seconds;
  RC_LOG() << counted << " of " << wanted;
  RC_ASSERT(std::abs(static_cast<double>(counted) / wanted - 1) < 0.2);
  RC_ASSERT(
      std::is_sorted(load.requests.begin(), load.requests.end(),
                     [](const Request& a, const Request& b) { return a.arrived < b.arrived; }));
}

}  // namespace
}  // namespace cortex::testing
