#pragma once

#include <cortex/result.h>

#include <string>
#include <vector>

#include "data/steps.h"

namespace cortex {

/// Which steps of a recording count.
enum class Protocol {
  causal,  ///< every observed step inside a trial
  onset,   ///< one a trial: the step whose target time is nearest to the movement's onset
  nlb,     ///< as the Neural Latents Benchmark: a span around the onset, behaviour `lag_ms` later
};
const char* to_string(Protocol protocol);
/// invalid_argument lists the names.
Result<Protocol> parse_protocol(const std::string& name);

struct ProtocolOptions {
  Protocol protocol = Protocol::causal;
  std::string align = "move_onset_time";  ///< column of the trials table: the onset, seconds
  double from_ms = -250;                  ///< nlb: span around the onset
  double to_ms = 450;
  double lag_ms = 80;  ///< nlb: behaviour scored is this much after the span (MC_Maze: 80)
  /// Spikes are scored and not behaviour: a step needs no target, and nlb's span has no lag.
  bool spikes = false;
};

struct ScoredSteps {
  std::vector<std::uint8_t> mask;   ///< [steps] 1 where it counts
  std::vector<std::int32_t> trial;  ///< [steps] whose answer it is, -1 where it does not count
};

/// Under `onset` and `nlb` a step counts for a trial if its target time does, wherever the step
/// itself lies: the answer to what the hand did at the onset may be given half a second later. Its
/// target must be finite and its target time inside that trial or inside none; where two trials
/// claim a step, the first has it. Errors of scored_steps(); not_found: no wanted trial has a
/// finite `align`; invalid_argument: the span is empty.
Result<ScoredSteps> protocol_steps(const SteppedRecording& stepped, const Recording& recording,
                                   const std::string& splits, double target_offset_ms,
                                   const ProtocolOptions& options);

}  // namespace cortex
