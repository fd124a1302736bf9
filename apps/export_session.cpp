#include "export_session.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace cortex {
namespace {

using record::FlightLog;
using record::RecordedSession;
using record::RecordedStep;

constexpr double kMsToS = 1e-3;

/// Spans of steps that the log holds without a break.
std::vector<Interval> observed(const RecordedSession& session, double step_s) {
  std::vector<Interval> spans;
  std::int64_t next = -1;
  for (const RecordedStep& step : session.steps) {
    const double start = static_cast<double>(step.sequence) * step_s;
    const double stop = static_cast<double>(step.sequence + 1) * step_s;
    if (step.sequence == next)
      spans.back().stop_s = stop;
    else
      spans.push_back({start, stop});
    next = step.sequence + 1;
  }
  return spans;
}

std::vector<Unit> units_of(const FlightLog& log, const RecordedSession& session) {
  const auto& ids =
      session.options.unit_ids.empty() ? log.model.unit_ids : session.options.unit_ids;
  std::vector<Unit> units;
  const auto spans = observed(session, log.model.step_ms * kMsToS);
  for (const std::string& id : ids) {
    units.emplace_back();
    units.back().id = id;
    units.back().observed = spans;
  }
  for (const RecordedStep& step : session.steps)
    for (const Event& e : record::events_of(step)) {
      if (e.unit < 0 || static_cast<std::size_t>(e.unit) >= units.size()) continue;
      // An event out of its step was dropped then.
      const std::int64_t bins = log.model.bins_per_step;
      if (e.bin < (step.sequence - step.gap) * bins || e.bin >= (step.sequence + 1) * bins)
        continue;
      auto& times = units[static_cast<std::size_t>(e.unit)].spike_times_s;
      for (int i = 0; i < e.value; ++i)
        times.push_back((static_cast<double>(e.bin) + (i + 0.5) / e.value) * log.model.bin_ms *
                        kMsToS);
    }
  for (Unit& unit : units) std::sort(unit.spike_times_s.begin(), unit.spike_times_s.end());
  return units;
}

bool is_whole_number(const std::string& text) {
  std::int64_t value = 0;
  const auto [end, fault] = std::from_chars(text.data(), text.data() + text.size(), value);
  return fault == std::errc() && end == text.data() + text.size();
}

/// NWB knows whole numbers alone as units' ids. Where they are something else, units are numbered
/// from 0, and what this returns says which is which.
std::string number_units(std::vector<Unit>& units) {
  if (std::all_of(units.begin(), units.end(), [](const Unit& u) { return is_whole_number(u.id); }))
    return {};
  std::string which;
  for (std::size_t i = 0; i < units.size(); ++i) {
    which += fmt::format("{}{} is {}", i == 0 ? "; units are numbered: " : ", ", i, units[i].id);
    units[i].id = fmt::format("{}", i);
  }
  return which;
}

BehaviorSeries series(const std::string& name, const std::string& unit, std::size_t dims) {
  BehaviorSeries made;
  made.name = name;
  made.path = "/processing/behavior/" + name;
  made.unit = unit;
  made.dims = dims;
  return made;
}

/// Outputs of one unit of measure share a series.
std::vector<BehaviorSeries> decoded(const FlightLog& log, const RecordedSession& session) {
  std::vector<std::pair<std::string, std::vector<std::size_t>>> groups;
  const auto& outputs = log.model.outputs;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const auto known = std::find_if(groups.begin(), groups.end(),
                                    [&](const auto& g) { return g.first == outputs[i].unit; });
    if (known != groups.end())
      known->second.push_back(i);
    else
      groups.push_back({outputs[i].unit, {i}});
  }
  std::vector<BehaviorSeries> all;
  all.reserve(groups.size() + 1);
  for (const auto& [unit, members] : groups)
    all.push_back(series(groups.size() == 1 ? "decoded" : "decoded_" + outputs[members[0]].name,
                         unit, members.size()));
  all.push_back(series("latency", "ms", 1));
  BehaviorSeries& latency = all.back();
  for (const RecordedStep& step : session.steps) {
    const std::vector<float> values = record::outputs_of(step);
    if (values.size() != outputs.size()) continue;
    const double time =
        (static_cast<double>(step.sequence + 1) * log.model.step_ms + log.model.target_offset_ms) *
        kMsToS;
    for (std::size_t g = 0; g < groups.size(); ++g) {
      all[g].times_s.push_back(time);
      for (const std::size_t i : groups[g].second) all[g].values.push_back(values[i]);
    }
    latency.times_s.push_back(time);
    latency.values.push_back(
        static_cast<float>(static_cast<double>(step.finished_ns - step.submitted_ns) * 1e-6));
  }
  if (latency.times_s.empty()) all.clear();
  return all;
}

}  // namespace

Result<Recording> to_recording(const FlightLog& log, const RecordedSession& session) {
  if (session.steps.empty())
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: session {} has no steps", log.name, session.id), "session"};
  Recording recording;
  recording.path = log.name;
  recording.identifier =
      fmt::format("{}-{}", std::filesystem::path(log.name).stem().string(), session.id);
  recording.session_id = fmt::format("{}", session.id);
  recording.description =
      fmt::format("Steps served by cortex {} with model {} (digest {}, {}, {})", log.cortex,
                  log.model.path, log.model.digest, log.model.precision, log.model.backend);
  // The client's clock is its own: its step 0 is put where its first recorded step arrived.
  const RecordedStep& first = session.steps.front();
  const std::int64_t arrived = first.answered ? first.submitted_ns : session.opened_ns;
  const double first_end_ns = static_cast<double>(first.sequence + 1) * log.model.step_ms * 1e6;
  const auto start_s = static_cast<std::time_t>(
      (static_cast<double>(log.wall_ns + (arrived - log.monotonic_ns)) - first_end_ns) * 1e-9);
  recording.session_start_time = fmt::format("{:%Y-%m-%dT%H:%M:%S}+00:00", fmt::gmtime(start_s));
  recording.units = units_of(log, session);
  recording.description += number_units(recording.units);
  recording.behavior = decoded(log, session);
  return recording;
}

}  // namespace cortex
