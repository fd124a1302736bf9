#pragma once

#include <string>

namespace cortex {

/// Prints how far the units of the recording `path` have moved from those of `reference`, a
/// recording (`reference_is_recording`) or a model that holds the rates of its training data.
void inspect_drift(const std::string& path, const std::string& reference,
                   bool reference_is_recording, bool json);

}  // namespace cortex
