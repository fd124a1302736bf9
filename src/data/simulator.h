#pragma once

#include <cortex/result.h>

#include <cstdint>

#include "data/recording.h"

namespace cortex {

/// A motor-cortex population reaching: what `cortex simulate` draws from. The population (tuning,
/// delays, rates, drift rates) is a function of `population_seed` alone; movement and spikes of one
/// session are a function of `session_seed` as well, so the same units appear in as many sessions
/// as wanted.
struct SimulatorOptions {
  std::uint64_t population_seed = 1;
  std::uint64_t session_seed = 1;
  int units = 96;
  double minutes = 5;
  double held_out_fraction = 0.25;
  double val_fraction = 0.2;  ///< of trials, marked "val" in `split`
};

/// The behaviour sampled at 1 kHz: hand_pos (mm), hand_vel (mm/s), cursor_pos (mm).
Result<Recording> simulate(const SimulatorOptions& options);

}  // namespace cortex
