#pragma once

#include "data/recording.h"
#include "train/trainer.h"

namespace cortex::train::testing {

/// A little session: units tuned to a smooth velocity, 0.5 s trials with gaps of 0.3 s between,
/// every fourth trial `val`. Behaviour and spikes exist only inside trials.
Recording synthetic_recording(int units, int trials, std::uint64_t seed);

/// A decoder that trains in a second.
TrainOptions tiny_options(const std::string& out);

std::string bytes_of(const std::string& path);

}  // namespace cortex::train::testing
