#include "serve/codec_json.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <cmath>
#include <limits>
#include <utility>

namespace cortex {
namespace {

using simdjson::dom::element;
using simdjson::dom::element_type;

constexpr std::size_t kMaxIdLength = 256;
constexpr std::size_t kMaxUnits = 100'000;
constexpr double kMaxDeadlineMs = 86'400'000;
/// Beyond this a JSON number is not a whole number in every client.
constexpr std::int64_t kMaxWhole = std::int64_t{1} << 53;

Error bad(std::string field, std::string message) {
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
std::string describe(element e) {
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
Result<std::int64_t> whole(element e, const std::string& field, std::int64_t low,
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

Result<double> deadline(element e, const std::string& field) {
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
      return bad(field,
                 fmt::format("{} must be a number of milliseconds, not {}", field, describe(e)));
  }
  if (!(d > 0 && d <= kMaxDeadlineMs))
    return bad(field,
               fmt::format("{} = {} must be above 0 and at most {:.0f}", field, d, kMaxDeadlineMs));
  return d;
}

Result<bool> flag(element e, const std::string& field) {
  if (e.type() != element_type::BOOL)
    return bad(field, fmt::format("{} must be true or false, not {}", field, describe(e)));
  return as<bool>(e);
}

Result<std::string> id(element e, const std::string& field) {
  if (e.type() != element_type::STRING)
    return bad(field, fmt::format("{} must be a string, not {}", field, describe(e)));
  const std::string_view text = as<std::string_view>(e);
  if (text.size() > kMaxIdLength)
    return bad(field, fmt::format("{} has {} bytes; at most {} are allowed", field, text.size(),
                                  kMaxIdLength));
  return std::string(text);
}

Error missing(std::string field) {
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

/// One event of "events". The fast path of every request: names are built only for an error.
Result<Event> event_of(element e, std::size_t index) {
  constexpr std::string_view kNames[] = {"neuron_id", "time_bin", "value"};
  const auto path = [index](std::string_view name) {
    return name.empty() ? fmt::format("events[{}]", index)
                        : fmt::format("events[{}].{}", index, name);
  };
  simdjson::dom::object object;
  if (e.get_object().get(object))
    return bad(path({}), fmt::format("{} must be an object, not {}", path({}), describe(e)));
  std::int64_t got[3] = {};
  unsigned seen = 0;
  constexpr std::int64_t kHigh[] = {std::numeric_limits<std::int32_t>::max(), kMaxWhole,
                                    std::numeric_limits<std::int32_t>::max()};
  for (const auto field : object) {
    const int i = index_of(kNames, field.key);
    if (i < 0) continue;
    if (seen & (1U << i)) return bad(path(kNames[i]), path(kNames[i]) + " is given twice");
    seen |= 1U << i;
    if (field.value.type() == element_type::INT64) {
      got[i] = as<std::int64_t>(field.value);
      if (got[i] >= 0 && got[i] <= kHigh[i]) continue;
    }
    const auto n = whole(field.value, path(kNames[i]), 0, kHigh[i]);
    if (!n) return n.error();
    got[i] = *n;
  }
  for (int i = 0; i < 3; ++i)
    if (!(seen & (1U << i))) return missing(path(kNames[i]));
  return Event{.unit = static_cast<std::int32_t>(got[0]),
               .value = static_cast<std::int32_t>(got[2]),
               .bin = got[1]};
}

Result<void> read_events(element e, std::vector<Event>& events) {
  simdjson::dom::array array;
  if (e.get_array().get(array))
    return bad("events", fmt::format("events must be an array, not {}", describe(e)));
  std::size_t i = 0;
  for (const element one : array) {
    auto event = event_of(one, i++);
    if (!event) return event.error();
    events.push_back(*event);
  }
  return {};
}

Result<OpenFrame> open_of(element e) {
  constexpr std::string_view kNames[] = {"units",       "allow_missing_units",
                                         "first_step",  "drop_out_of_step",
                                         "deadline_ms", "best_effort"};
  OpenFrame open;
  if (e.type() == element_type::BOOL && as<bool>(e)) return open;
  if (e.type() != element_type::OBJECT)
    return bad("open", fmt::format("open must be an object or true, not {}", describe(e)));
  const auto fields = fields_of(e, kNames, "open.");
  if (!fields) return fields.error();
  if (fields->has[0]) {
    simdjson::dom::array units;
    if (fields->at[0].get_array().get(units))
      return bad("open.units",
                 "open.units must be an array of unit ids, not " + describe(fields->at[0]));
    std::size_t i = 0;
    for (const element unit : units) {
      if (i >= kMaxUnits)
        return Error{ErrorCode::too_large,
                     fmt::format("open.units has more than {} units", kMaxUnits), "open.units"};
      auto name = id(unit, fmt::format("open.units[{}]", i++));
      if (!name) return name.error();
      open.options.unit_ids.push_back(std::move(*name));
    }
    if (open.options.unit_ids.empty())
      return bad("open.units", "open.units is empty; leave it out to use the model's units");
  }
  if (fields->has[1]) {
    const auto on = flag(fields->at[1], "open.allow_missing_units");
    if (!on) return on.error();
    open.options.allow_missing_units = *on;
  }
  if (fields->has[2]) {
    const auto n = whole(fields->at[2], "open.first_step", 0, kMaxWhole);
    if (!n) return n.error();
    open.options.first_step = *n;
  }
  if (fields->has[3]) {
    const auto on = flag(fields->at[3], "open.drop_out_of_step");
    if (!on) return on.error();
    open.options.drop_out_of_step = *on;
  }
  if (fields->has[4]) {
    const auto ms = deadline(fields->at[4], "open.deadline_ms");
    if (!ms) return ms.error();
    open.deadline_ms = *ms;
  }
  if (fields->has[5]) {
    const auto on = flag(fields->at[5], "open.best_effort");
    if (!on) return on.error();
    open.best_effort = *on;
  }
  return open;
}

}  // namespace

struct FrameParser::Dom {
  simdjson::dom::parser parser;

  Result<element> object(std::string_view json) {
    element root;
    const auto error = parser.parse(json.data(), json.size()).get(root);
    if (error) return bad("", fmt::format("not valid JSON: {}", simdjson::error_message(error)));
    if (root.type() != element_type::OBJECT)
      return bad("", "the JSON must be an object, not " + describe(root));
    return root;
  }
};

FrameParser::FrameParser() : dom_(std::make_unique<Dom>()) {}
FrameParser::~FrameParser() = default;

Result<DecodeFrame> FrameParser::decode(std::string_view json) {
  constexpr std::string_view kNames[] = {"request_id", "session_id", "events", "deadline_ms",
                                         "best_effort"};
  events_.clear();
  const auto root = dom_->object(json);
  if (!root) return root.error();
  const auto fields = fields_of(*root, kNames, "");
  if (!fields) return fields.error();
  for (int i = 0; i < 3; ++i)
    if (!fields->has[i]) return missing(std::string(kNames[i]));
  DecodeFrame frame;
  auto request = id(fields->at[0], "request_id");
  if (!request) return request.error();
  frame.request_id = std::move(*request);
  auto session = id(fields->at[1], "session_id");
  if (!session) return session.error();
  frame.session_id = std::move(*session);
  const auto read = read_events(fields->at[2], events_);
  if (!read) return read.error();
  frame.events = events_;
  if (fields->has[3]) {
    const auto ms = deadline(fields->at[3], "deadline_ms");
    if (!ms) return ms.error();
    frame.deadline_ms = *ms;
  }
  if (fields->has[4]) {
    const auto on = flag(fields->at[4], "best_effort");
    if (!on) return on.error();
    frame.best_effort = *on;
  }
  return frame;
}

Result<StreamFrame> FrameParser::stream(std::string_view json) {
  constexpr std::string_view kNames[] = {"sequence_number", "events", "gap",  "deadline_ms",
                                         "best_effort",     "open",   "close"};
  events_.clear();
  sequence_.reset();
  const auto root = dom_->object(json);
  if (!root) return root.error();
  const auto fields = fields_of(*root, kNames, "");
  if (!fields) return fields.error();
  StreamFrame frame;
  if (fields->has[5]) {
    auto open = open_of(fields->at[5]);
    if (!open) return open.error();
    frame.kind = StreamFrame::Kind::open;
    frame.open = std::move(*open);
    return frame;
  }
  if (fields->has[6]) {
    const auto on = flag(fields->at[6], "close");
    if (!on) return on.error();
    if (!*on) return bad("close", "close = false: a frame closes the session or leaves close out");
    frame.kind = StreamFrame::Kind::close;
    return frame;
  }
  if (!fields->has[0]) return missing("sequence_number");
  const auto sequence = whole(fields->at[0], "sequence_number", 0, kMaxWhole);
  if (!sequence) return sequence.error();
  sequence_ = frame.step.sequence = *sequence;
  if (!fields->has[1]) return missing("events");
  const auto read = read_events(fields->at[1], events_);
  if (!read) return read.error();
  frame.step.events = events_;
  if (fields->has[2]) {
    const auto n = whole(fields->at[2], "gap", 0, kMaxWhole);
    if (!n) return n.error();
    frame.step.gap = *n;
  }
  if (fields->has[3]) {
    const auto ms = deadline(fields->at[3], "deadline_ms");
    if (!ms) return ms.error();
    frame.step.deadline_ms = *ms;
  }
  if (fields->has[4]) {
    const auto on = flag(fields->at[4], "best_effort");
    if (!on) return on.error();
    frame.step.best_effort = *on;
  }
  return frame;
}

}  // namespace cortex
