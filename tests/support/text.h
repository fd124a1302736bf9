#pragma once

#include <string>

namespace cortex::testing {

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace cortex::testing
