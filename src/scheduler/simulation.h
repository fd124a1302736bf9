#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "scheduler/policies.h"
#include "scheduler/workload.h"

namespace cortex {

enum class Outcome { refused, shed, answered };

/// What became of one request; every one has one.
struct Answered {
  std::uint64_t id = 0;
  Outcome outcome = Outcome::answered;
  TimeNs started = 0;   ///< answered
  TimeNs finished = 0;  ///< when it was answered, refused or shed
};

struct SimulationResult {
  std::int64_t offered = 0;
  std::int64_t refused = 0;  ///< at once: windows, and every step of a session refused at the door
  std::int64_t shed = 0;     ///< taken and given up before they ran
  std::int64_t late = 0;     ///< ran, and were too late
  std::int64_t in_time = 0;
  std::int64_t batches = 0;
  std::int64_t rows = 0;
  int sessions = 0;
  int sessions_refused = 0;
  double goodput_fraction = 0;  ///< answers in time a second, over the capacity
  double miss_rate = 0;         ///< offered requests without an answer in time
  double broken_rate = 0;       ///< taken requests without one
  double busy_fraction = 0;     ///< of the time until the last answer
  double p50_ms = 0;            ///< from arrival to the answer, of what was answered in time
  double p99_ms = 0;
};

/// Called once for every request.
using AnswerHook = std::function<void(const Answered&)>;

/// One device and one policy under a virtual clock. The steps of a session run in order, one at a
/// time, and are never skipped.
SimulationResult simulate(const Workload& workload, const SimulatedCost& cost, std::uint64_t seed,
                          SchedulingPolicy& policy, const AnswerHook& on_answer = {});

/// What an engine measures in its warm-up: batches of 1, 2, 4, .. rows, each with chance.
std::vector<BatchCost> simulated_warm_up(const SimulatedCost& cost, double keys, int max_batch,
                                         std::uint64_t seed);

}  // namespace cortex
