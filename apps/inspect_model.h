#pragma once

#include <string>

namespace cortex {

/// Describes a model file for a person or as one JSON object. Throws Exception.
void inspect_model(const std::string& path, bool json);

}  // namespace cortex
