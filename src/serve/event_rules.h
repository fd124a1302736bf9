#pragma once

#include <cortex/engine.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

/// What a model lets events be, in the words of the request: an error names the field, its index
/// and its value. The engine checks again in its own words.
namespace cortex {

/// How many units there are for a window to name.
std::size_t unit_count(const ModelInfo& model);

/// Events of a /decode request or of a window model's /stream frame.
Result<void> check_window(std::span<const Event> events, const ModelInfo& model);

/// Events of a step. `units` is how many the session declared.
Result<void> check_step(std::span<const Event> events, std::int64_t sequence, std::size_t units,
                        bool drop_out_of_step, const ModelInfo& model);

}  // namespace cortex
