#pragma once

#include <string>
#include <string_view>

namespace cortex {

/// The value of a name in a URL's query, e.g. "model" in "model=arm&x=1"; empty where it is absent.
/// Values are names of models, which need no percent-decoding.
inline std::string query_value(std::string_view query, std::string_view name) {
  while (!query.empty()) {
    const auto end = query.find('&');
    const std::string_view pair = query.substr(0, end);
    const auto equals = pair.find('=');
    if (equals != std::string_view::npos && pair.substr(0, equals) == name)
      return std::string(pair.substr(equals + 1));
    query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
  }
  return {};
}

}  // namespace cortex
