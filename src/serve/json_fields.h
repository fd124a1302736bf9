#pragma once

#include <cortex/result.h>
#include <fmt/format.h>
#include <simdjson.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "serve/stream_frames.h"

/// What the codecs ask of a JSON value: its type, its range, an error that names it.
namespace cortex::json {

using simdjson::dom::element;
using simdjson::dom::element_type;

/// What an event is made of, and the highest that each may be; the lowest is 0.
inline constexpr std::string_view kEventFields[] = {"neuron_id", "time_bin", "value"};
inline constexpr std::int64_t kEventHighest[] = {
    std::numeric_limits<std::int32_t>::max(), kMaxWhole, std::numeric_limits<std::int32_t>::max()};

inline Error bad(std::string field, std::string message) {
  return {ErrorCode::invalid_argument, std::move(message), std::move(field)};
}

/// The value of an element whose type has been looked at.
template <class T>
T as(element e) {
  T value{};
  [[maybe_unused]] const auto error = e.get(value);
  return value;
}

/// What a value is, for messages: short values as they are, others by their kind.
inline std::string describe(element e) {
  switch (e.type()) {
    case element_type::ARRAY:
      return "an array";
    case element_type::OBJECT:
      return "an object";
    case element_type::NULL_VALUE:
      return "null";
    case element_type::BOOL:
      return as<bool>(e) ? "true" : "false";
    case element_type::INT64:
      return fmt::format("{}", as<std::int64_t>(e));
    case element_type::UINT64:
      return fmt::format("{}", as<std::uint64_t>(e));
    case element_type::DOUBLE:
      return fmt::format("{}", as<double>(e));
    case element_type::STRING: {
      const std::string_view text = as<std::string_view>(e);
      return text.size() <= 32 ? fmt::format("\"{}\"", text) : std::string("a string");
    }
  }
  return "a value";
}

/// A whole number in [low, high]. 3.0 is one: clients that only know doubles write it so.
inline Result<std::int64_t> whole(element e, const std::string& field, std::int64_t low,
                                  std::int64_t high) {
  std::int64_t n = 0;
  if (e.type() == element_type::INT64) {
    n = as<std::int64_t>(e);
  } else if (e.type() == element_type::DOUBLE) {
    const double d = as<double>(e);
    if (!(std::abs(d) <= static_cast<double>(kMaxWhole)) || d != std::floor(d))
      return bad(field, fmt::format("{} = {}: must be a whole number", field, d));
    n = static_cast<std::int64_t>(d);
  } else if (e.type() == element_type::UINT64) {
    return bad(field, fmt::format("{} = {} is out of range", field, describe(e)));
  } else {
    return bad(field, fmt::format("{} must be a whole number, not {}", field, describe(e)));
  }
  if (n < low || n > high)
    return bad(field, fmt::format("{} = {} is out of range: {} to {}", field, n, low, high));
  return n;
}

/// A number above 0 and at most `high`.
inline Result<double> number(element e, const std::string& field, std::string_view unit,
                             double high) {
  double d = 0;
  switch (e.type()) {
    case element_type::INT64:
      d = static_cast<double>(as<std::int64_t>(e));
      break;
    case element_type::UINT64:
      d = static_cast<double>(as<std::uint64_t>(e));
      break;
    case element_type::DOUBLE:
      d = as<double>(e);
      break;
    default:
      return bad(field, fmt::format("{} must be a number of {}, not {}", field, unit, describe(e)));
  }
  if (!(d > 0 && d <= high))
    return bad(field, fmt::format("{} = {} must be above 0 and at most {:.0f}", field, d, high));
  return d;
}

inline Result<double> deadline(element e, const std::string& field) {
  return number(e, field, "milliseconds", kMaxDeadlineMs);
}

inline Result<bool> flag(element e, const std::string& field) {
  if (e.type() != element_type::BOOL)
    return bad(field, fmt::format("{} must be true or false, not {}", field, describe(e)));
  return as<bool>(e);
}

inline Result<std::string> id(element e, const std::string& field) {
  if (e.type() != element_type::STRING)
    return bad(field, fmt::format("{} must be a string, not {}", field, describe(e)));
  const std::string_view text = as<std::string_view>(e);
  if (text.size() > kMaxIdLength)
    return bad(field, fmt::format("{} has {} bytes; at most {} are allowed", field, text.size(),
                                  kMaxIdLength));
  return std::string(text);
}

inline Error missing(std::string field) {
  std::string message = field + " is missing";
  return bad(std::move(field), std::move(message));
}

/// The number of a name in a list, or -1.
template <std::size_t N>
int index_of(const std::string_view (&names)[N], std::string_view key) {
  for (std::size_t i = 0; i < N; ++i)
    if (names[i] == key) return static_cast<int>(i);
  return -1;
}

/// Known fields of an object, by their place in `names`; null is the same as absent.
template <std::size_t N>
struct Fields {
  element at[N];
  bool has[N] = {};
};

template <std::size_t N>
Result<Fields<N>> fields_of(element e, const std::string_view (&names)[N],
                            const std::string& path) {
  Fields<N> fields;
  const simdjson::dom::object object = as<simdjson::dom::object>(e);
  unsigned seen = 0;
  for (const auto field : object) {
    const int i = index_of(names, field.key);
    if (i < 0) continue;
    std::string name = path + std::string(names[i]);
    if (seen & (1U << i)) return bad(name, fmt::format("{} is given twice", name));
    seen |= 1U << i;
    if (field.value.type() == element_type::NULL_VALUE) continue;
    fields.at[i] = field.value;
    fields.has[i] = true;
  }
  return fields;
}

/// Parses text whose top is an object.
inline Result<element> object_of(simdjson::dom::parser& parser, std::string_view json) {
  element root;
  const auto error = parser.parse(json.data(), json.size()).get(root);
  if (error) return bad("", fmt::format("not valid JSON: {}", simdjson::error_message(error)));
  if (root.type() != element_type::OBJECT)
    return bad("", "the JSON must be an object, not " + describe(root));
  return root;
}

}  // namespace cortex::json
