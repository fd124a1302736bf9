#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/clock.h"
#include "scheduler/cost_model.h"

namespace cortex {

/// What a batch takes in a simulation: linear in rows and events, times a random factor of mean 1.
struct SimulatedCost {
  double batch_us = 0;  ///< of any batch
  double row_us = 0;    ///< and of each step or window in it
  double key_us = 0;    ///< and of each event
  double jitter = 0;    ///< standard deviation of the factor's logarithm
  double stall_hz = 0;  ///< stalls a second of busy time
  double stall_us = 0;

  /// Without chance.
  double mean_us(double rows, double keys) const {
    return batch_us + row_us * rows + key_us * keys;
  }
};

enum class Load {
  poisson,  ///< windows, independent of each other
  bursty,   ///< windows, a fifth of the time at three times the mean rate, else at half of it
  sessions  ///< streams that send a step each period, each with its own phase
};

struct WorkloadOptions {
  Load load = Load::poisson;
  double utilisation = 1;  ///< offered load over capacity
  double seconds = 60;     ///< that count, after as much of the load as `ramp` seconds of it
  double ramp = 5;         ///< sessions open one after another within this time
  std::uint64_t seed = 1;
  double keys = 256;           ///< mean events of a window or step, Poisson
  double deadline_ms = 50;     ///< from arrival
  double deadline_spread = 0;  ///< windows: uniform, from (1 - this) to (1 + this) of it
  double step_rate_hz = 50;    ///< sessions
  int max_batch = 16;
  SimulatedCost cost;
};

struct Request {
  TimeNs arrived = 0;
  TimeNs deadline = kNever;
  std::int32_t keys = 0;
  std::int32_t session = -1;  ///< -1: a window
  std::uint32_t tenant = 0;
};

struct Workload {
  std::vector<Request> requests;  ///< in order of arrival
  int sessions = 0;
  double step_rate_hz = 0;
  TimeNs counted_from = 0;  ///< what arrived before is not counted
  double seconds = 0;       ///< from there on
  double capacity_hz = 0;   ///< the most that batches of any size do
};

/// Most rows a second of batches of up to `max_batch` rows of `keys` events each.
double simulated_capacity_hz(const SimulatedCost& cost, double keys, int max_batch);

/// The same for the same options, on any machine.
Workload make_workload(const WorkloadOptions& options);

}  // namespace cortex
