#include "serve/codec_json.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <utility>

#include "serve/json_fields.h"

namespace cortex {
namespace {

using json::as;
using json::bad;
using json::deadline;
using json::describe;
using json::element;
using json::element_type;
using json::fields_of;
using json::flag;
using json::id;
using json::index_of;
using json::kEventFields;
using json::kEventHighest;
using json::missing;
using json::number;
using json::object_of;
using json::whole;

Event event_from(const std::int64_t (&got)[3]) {
  return {.unit = static_cast<std::int32_t>(got[0]),
          .value = static_cast<std::int32_t>(got[2]),
          .bin = got[1]};
}

/// Nearly every event of every request: three whole numbers in range. False: event_of() says what
/// it is instead.
bool plain_event(element e, Event& event) {
  simdjson::dom::object object;
  if (e.get_object().get(object)) return false;
  std::int64_t got[3] = {};
  unsigned seen = 0;
  for (const auto field : object) {
    // Lengths that are known here need no call to compare them.
    const int i = field.key == kEventFields[0]   ? 0
                  : field.key == kEventFields[1] ? 1
                  : field.key == kEventFields[2] ? 2
                                                 : -1;
    if (i < 0) continue;
    if (seen & (1U << i) || field.value.type() != element_type::INT64) return false;
    seen |= 1U << i;
    got[i] = as<std::int64_t>(field.value);
    if (got[i] < 0 || got[i] > kEventHighest[i]) return false;
  }
  event = event_from(got);
  return seen == 7;
}

/// One event of "events", or what is wrong with it.
Result<Event> event_of(element e, std::size_t index) {
  const auto path = [index](std::string_view name) {
    return name.empty() ? fmt::format("events[{}]", index)
                        : fmt::format("events[{}].{}", index, name);
  };
  simdjson::dom::object object;
  if (e.get_object().get(object))
    return bad(path({}), fmt::format("{} must be an object, not {}", path({}), describe(e)));
  std::int64_t got[3] = {};
  unsigned seen = 0;
  for (const auto field : object) {
    const int i = index_of(kEventFields, field.key);
    if (i < 0) continue;
    if (seen & (1U << i))
      return bad(path(kEventFields[i]), path(kEventFields[i]) + " is given twice");
    seen |= 1U << i;
    const auto n = whole(field.value, path(kEventFields[i]), 0, kEventHighest[i]);
    if (!n) return n.error();
    got[i] = *n;
  }
  for (int i = 0; i < 3; ++i)
    if (!(seen & (1U << i))) return missing(path(kEventFields[i]));
  return event_from(got);
}

Result<void> read_events(element e, std::vector<Event>& events) {
  simdjson::dom::array array;
  if (e.get_array().get(array))
    return bad("events", fmt::format("events must be an array, not {}", describe(e)));
  for (const element one : array) {
    if (Event event; plain_event(one, event)) {
      events.push_back(event);
      continue;
    }
    const auto event = event_of(one, events.size());
    if (!event) return event.error();
    events.push_back(*event);
  }
  return {};
}

Result<OpenFrame> open_of(element e) {
  constexpr std::string_view kNames[] = {
      "units",       "allow_missing_units", "first_step", "drop_out_of_step",
      "deadline_ms", "best_effort",         "rate_hz",    "reserve",
      "model"};
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
  if (fields->has[6]) {
    const auto hz = number(fields->at[6], "open.rate_hz", "steps a second", kMaxRateHz);
    if (!hz) return hz.error();
    open.options.step_rate_hz = *hz;
  }
  if (fields->has[7]) {
    const auto on = flag(fields->at[7], "open.reserve");
    if (!on) return on.error();
    open.options.best_effort = !*on;
  }
  if (fields->has[8]) {
    auto name = id(fields->at[8], "open.model");
    if (!name) return name.error();
    open.model = *std::move(name);
  }
  return open;
}

}  // namespace

struct FrameParser::Dom {
  simdjson::dom::parser parser;
};

FrameParser::FrameParser() : dom_(std::make_unique<Dom>()) {}
FrameParser::~FrameParser() = default;

Result<DecodeFrame> FrameParser::decode(std::string_view json) {
  constexpr std::string_view kNames[] = {"request_id",  "session_id",  "events",
                                         "deadline_ms", "best_effort", "model"};
  events_.clear();
  const auto root = object_of(dom_->parser, json);
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
  if (fields->has[5]) {
    auto name = id(fields->at[5], "model");
    if (!name) return name.error();
    frame.model = *std::move(name);
  }
  return frame;
}

Result<StreamFrame> FrameParser::stream(std::string_view json) {
  constexpr std::string_view kNames[] = {"sequence_number", "events", "gap",  "deadline_ms",
                                         "best_effort",     "open",   "close"};
  events_.clear();
  sequence_.reset();
  const auto root = object_of(dom_->parser, json);
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
