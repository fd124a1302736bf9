#pragma once

#include <cortex/events.h>

#include <vector>

#include "model/weights.h"

namespace cortex::testing {

/// The stream decoder as its formulas say, in float64, sharing no code with the engine: every step
/// since `first_step` is computed at once under the band mask, with rotary phases of absolute time,
/// tokens embedded, normalised and projected one by one. steps[i] holds the events of step
/// first_step + i with model rows as units. Returns [steps][outputs].
std::vector<std::vector<double>> run_oracle(const ModelFile& model, std::int64_t first_step,
                                            const std::vector<std::vector<Event>>& steps);

/// A small stream model whose every part matters to its output: `scale` sets how large the random
/// weights are.
ModelFile lively_stream_model(ModelConfig config, std::uint64_t seed);

/// D 16, 2 layers, 2 heads, R 2, W 6, C 3, 4 bins of 5 ms a step, 9 units.
ModelConfig tiny_stream_config();

}  // namespace cortex::testing
