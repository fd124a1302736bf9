#pragma once

#include <atomic>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "data/steps.h"

namespace cortex {

/// What a decoder says of itself when a replay opens its session.
struct DecoderInfo {
  std::string model;
  std::string precision;
  double bin_ms = 0;
  double step_ms = 0;
  double target_offset_ms = 0;
  std::vector<std::string> output_names;
  std::vector<std::string> output_units;
  std::vector<std::string> unit_ids;
};

/// A replay as it happens. The stepping thread fills the row of step n and then raises `done`; rows
/// below `done` never change again, so other threads read them without a lock.
struct ReplayTrace {
  ReplayTrace(SteppedRecording recording, std::vector<std::uint8_t> scored_mask,
              std::int64_t step_count, std::size_t output_count)
      : stepped(std::move(recording)),
        scored(std::move(scored_mask)),
        total(step_count),
        outputs(output_count),
        decoded(static_cast<std::size_t>(step_count) * output_count,
                std::numeric_limits<float>::quiet_NaN()),
        latency_ns(static_cast<std::size_t>(step_count)),
        wake_lag_ns(static_cast<std::size_t>(step_count)),
        withheld(static_cast<std::size_t>(step_count)) {}

  const SteppedRecording stepped;
  const std::vector<std::uint8_t> scored;  ///< [stepped.steps()]
  const std::int64_t total;                ///< steps to replay, at most stepped.steps()
  const std::size_t outputs;

  std::vector<float> decoded;            ///< [total, outputs]; a withheld answer holds the last one
  std::vector<std::int64_t> latency_ns;  ///< last spike in to velocity out
  std::vector<std::int64_t> wake_lag_ns;  ///< how late the client's own clock woke it; 0 unpaced
  std::vector<std::uint8_t> withheld;     ///< 1: the decoder answered without a velocity
  std::atomic<std::int64_t> done{0};

  bool has_target() const { return stepped.dims == outputs && stepped.dims > 0; }
  const float* decoded_row(std::int64_t step) const {
    return decoded.data() + static_cast<std::size_t>(step) * outputs;
  }
  const float* target_row(std::int64_t step) const {
    return stepped.target.data() + static_cast<std::size_t>(step) * stepped.dims;
  }
};

}  // namespace cortex
