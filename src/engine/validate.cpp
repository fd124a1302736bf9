#include "engine/validate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <unordered_map>

#include "cache/stream_state.h"

namespace cortex {
namespace {

// An error lists this many ids; the rest are counted.
constexpr std::size_t kListed = 20;

std::string list_ids(const std::vector<std::string>& ids) {
  const std::size_t n = std::min(ids.size(), kListed);
  std::string text = fmt::format("{}", fmt::join(ids.begin(), ids.begin() + n, ", "));
  if (ids.size() > n) text += fmt::format(" and {} more", ids.size() - n);
  return text;
}

Error bad_event(std::size_t index, const char* field, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("events[{}].{} {}", index, field, what),
          fmt::format("events[{}].{}", index, field)};
}

Error bad_unit(std::size_t index, std::int32_t unit, std::size_t units) {
  return bad_event(index, "neuron_id", fmt::format("is {}, allowed are 0 to {}", unit, units - 1));
}

Error too_many(std::size_t events, int most) {
  return {ErrorCode::too_large, fmt::format("{} events, at most {} are allowed", events, most),
          "events"};
}

}  // namespace

Error no_session(SessionId id) {
  return {ErrorCode::not_found,
          fmt::format("no session {}: it was closed, or expired and its state is lost; open a new "
                      "one",
                      id),
          "session_id"};
}

Result<std::vector<std::int32_t>> match_units(const ModelConfig& config,
                                              const SessionOptions& options) {
  std::vector<std::int32_t> rows;
  if (options.unit_ids.empty()) {
    for (std::int32_t u = 0; u < config.unit_count(); ++u) rows.push_back(u);
    return rows;
  }
  std::unordered_map<std::string, std::int32_t> by_id;
  for (const ModelUnit& u : config.units)
    by_id.emplace(u.id, static_cast<std::int32_t>(by_id.size()));
  std::vector<bool> declared(config.units.size(), false);
  std::vector<std::string> unknown;
  std::vector<std::string> twice;
  for (const std::string& id : options.unit_ids) {
    const auto found = by_id.find(id);
    if (found == by_id.end()) {
      unknown.push_back(id);
      continue;
    }
    if (declared[static_cast<std::size_t>(found->second)]) twice.push_back(id);
    declared[static_cast<std::size_t>(found->second)] = true;
    rows.push_back(found->second);
  }
  std::vector<std::string> missing;
  if (!options.allow_missing_units)
    for (std::size_t u = 0; u < declared.size(); ++u)
      if (!declared[u]) missing.push_back(config.units[u].id);
  if (unknown.empty() && twice.empty() && missing.empty()) return rows;
  std::string message = "units do not match the model's:";
  if (!unknown.empty()) message += fmt::format(" unknown to it: {};", list_ids(unknown));
  if (!twice.empty()) message += fmt::format(" declared twice: {};", list_ids(twice));
  if (!missing.empty()) message += fmt::format(" not declared: {};", list_ids(missing));
  message.pop_back();
  return Error{ErrorCode::invalid_argument, message, "units"};
}

Result<StepEvents> take_step_events(const ModelConfig& config, const SessionOptions& options,
                                    const std::vector<std::int32_t>& unit_rows, std::int64_t step,
                                    std::span<const Event> events, EventStore& store) {
  if (events.size() > static_cast<std::size_t>(config.max_events_per_step))
    return too_many(events.size(), config.max_events_per_step);
  const std::int64_t k = config.bins_per_step();
  const std::span<Event> room = store.room(events.size());
  std::size_t taken = 0;
  std::int64_t dropped = 0;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const Event& e = events[i];
    if (e.unit < 0 || static_cast<std::size_t>(e.unit) >= unit_rows.size())
      return bad_unit(i, e.unit, unit_rows.size());
    if (e.value < 1) return bad_event(i, "value", fmt::format("is {}, not at least 1", e.value));
    if (e.bin < step * k || e.bin >= (step + 1) * k) {
      if (!options.drop_out_of_step)
        return bad_event(i, "time_bin",
                         fmt::format("is {}, step {} owns bins {} to {}", e.bin, step, step * k,
                                     (step + 1) * k - 1));
      ++dropped;
      continue;
    }
    room[taken++] = {unit_rows[static_cast<std::size_t>(e.unit)], e.value, e.bin};
  }
  return StepEvents{room.first(canonicalize(room.first(taken))), dropped};
}

Result<void> check_window_events(const ModelConfig& config, std::span<const Event> events,
                                 int max_events) {
  if (events.size() > static_cast<std::size_t>(max_events))
    return too_many(events.size(), max_events);
  const bool stream = config.streams();
  const auto units = static_cast<std::size_t>(config.unit_count());
  const std::int64_t bins = stream ? kMaxStep * config.bins_per_step() : config.max_bins;
  const std::int32_t least = stream ? 1 : 0;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const Event& e = events[i];
    if (e.unit < 0 || static_cast<std::size_t>(e.unit) >= units) return bad_unit(i, e.unit, units);
    if (e.value < least)
      return bad_event(i, "value", fmt::format("is {}, not at least {}", e.value, least));
    if (e.bin < 0 || e.bin >= bins)
      return bad_event(i, "time_bin", fmt::format("is {}, allowed are 0 to {}", e.bin, bins - 1));
  }
  return {};
}

Result<void> check_step_sizes(const ModelConfig& config, std::span<const Event> events) {
  std::size_t begin = 0;
  for (std::size_t i = 0; i < events.size(); ++i) {
    if (events[i].bin / config.bins_per_step() != events[begin].bin / config.bins_per_step())
      begin = i;
    if (i - begin >= static_cast<std::size_t>(config.max_events_per_step)) {
      Error e = too_many(i - begin + 1, config.max_events_per_step);
      e.message = fmt::format("step {}: {}", events[i].bin / config.bins_per_step(), e.message);
      return e;
    }
  }
  return {};
}

}  // namespace cortex
