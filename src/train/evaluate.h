#pragma once

#include <functional>

#include "train/network.h"

namespace cortex::train {

/// Steps [first, last) of a part, the first and the last of which are scored.
struct ScoredSpan {
  std::size_t part = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;
};

/// Causal and exact: the recording is one stream; it is run in chunks, each after as many steps of
/// context as its outputs depend on, so that every scored step has the value of a whole pass.
/// `take` gets the answers of each span in turn, float32 [last - first, outputs].
void run_timeline(const Network& network, const Timeline& timeline, std::int64_t chunk_steps,
                  const std::function<void(const ScoredSpan&, const float*)>& take);

/// What a network decodes at the scored steps of a timeline, in physical units.
struct Decoded {
  std::vector<float> values;       ///< [steps of all parts, dims]; 0 where not scored
  std::vector<float> truth;        ///< the same rows
  std::vector<std::uint8_t> mask;  ///< [steps of all parts]
  R2 score;
};

/// By run_timeline().
Decoded decode_timeline(const Network& network, const Timeline& timeline,
                        const std::vector<float>& mean, const std::vector<float>& std,
                        std::int64_t chunk_steps = 1024);

}  // namespace cortex::train
