#include "data/unit_filter.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <sstream>
#include <utility>
#include <vector>

#include "data/intervals.h"

namespace cortex {
namespace {

using Test = std::function<bool(const Unit&)>;

Error not_understood(const std::string& term, const std::string& why) {
  return {ErrorCode::invalid_argument,
          fmt::format("units '{}': {}; a filter is all, held-in, held-out, rate>=X, rate<=X, "
                      "id=A|B-C, location=A|B or group=A|B, joined by commas",
                      term, why),
          "units"};
}

std::vector<std::string> pieces(const std::string& text, char at) {
  std::vector<std::string> found;
  std::istringstream in(text);
  for (std::string piece; std::getline(in, piece, at);) found.push_back(piece);
  return found;
}

bool parse(const std::string& text, std::int64_t& into) {
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), into);
  return failure == std::errc() && end == text.data() + text.size() && !text.empty();
}

double rate_of(const Unit& unit, double session_s) {
  double seconds = 0;
  for (const Interval& span : unit.observed) seconds += span.stop_s - span.start_s;
  if (unit.observed.empty()) seconds = session_s;
  return seconds > 0 ? static_cast<double>(unit.spike_times_s.size()) / seconds : 0;
}

Result<Test> rate_test(const std::string& term, const Recording& recording) {
  const bool least = term.starts_with("rate>=");
  char* end = nullptr;
  const double bound = std::strtod(term.c_str() + 6, &end);
  if (term.size() == 6 || *end != '\0' || !std::isfinite(bound))
    return not_understood(term, fmt::format("'{}' is no rate", term.substr(6)));
  const Interval span = session_span(recording, observed_union(recording));
  const double session_s = span.stop_s - span.start_s;
  return Test([=](const Unit& unit) {
    const double rate = rate_of(unit, session_s);
    return least ? rate >= bound : rate <= bound;
  });
}

Result<Test> id_test(const std::string& term) {
  std::vector<std::pair<std::int64_t, std::int64_t>> spans;
  for (const std::string& piece : pieces(term.substr(3), '|')) {
    // A sign is no dash.
    const std::size_t dash = piece.find('-', 1);
    std::int64_t first = 0, last = 0;
    const bool fits = dash == std::string::npos
                          ? parse(piece, first) && parse(piece, last)
                          : parse(piece.substr(0, dash), first) &&
                                parse(piece.substr(dash + 1), last) && first <= last;
    if (!fits) return not_understood(term, fmt::format("'{}' is no id and no span of ids", piece));
    spans.emplace_back(first, last);
  }
  if (spans.empty()) return not_understood(term, "no id");
  return Test([spans](const Unit& unit) {
    std::int64_t id = 0;
    if (!parse(unit.id, id)) return false;
    for (const auto& [first, last] : spans)
      if (id >= first && id <= last) return true;
    return false;
  });
}

Result<Test> electrode_test(const std::string& term, const Recording& recording) {
  const bool location = term.starts_with("location=");
  const std::vector<std::string> wanted = pieces(term.substr(term.find('=') + 1), '|');
  return Test([&recording, location, wanted](const Unit& unit) {
    if (!unit.electrode || *unit.electrode < 0 ||
        *unit.electrode >= static_cast<std::int64_t>(recording.electrodes.size()))
      return false;
    const Electrode& electrode = recording.electrodes[static_cast<std::size_t>(*unit.electrode)];
    const std::string& value = location ? electrode.location : electrode.group;
    for (const std::string& each : wanted)
      if (value == each) return true;
    return false;
  });
}

Result<Test> parse_term(const std::string& term, const Recording& recording) {
  if (term == "all") return Test([](const Unit&) { return true; });
  if (term == "held-in") return Test([](const Unit& unit) { return !unit.held_out; });
  if (term == "held-out") return Test([](const Unit& unit) { return unit.held_out; });
  if (term.starts_with("rate>=") || term.starts_with("rate<=")) return rate_test(term, recording);
  if (term.starts_with("id=")) return id_test(term);
  if (term.starts_with("location=") || term.starts_with("group="))
    return electrode_test(term, recording);
  return not_understood(term, "not understood");
}

}  // namespace

Result<void> keep_units(Recording& recording, const std::string& filter) {
  const std::size_t before = recording.units.size();
  std::vector<Test> tests;
  for (const std::string& term : pieces(filter, ',')) {
    auto test = parse_term(term, recording);
    if (!test) return test.error();
    tests.push_back(*std::move(test));
  }
  std::erase_if(recording.units, [&](const Unit& unit) {
    for (const Test& test : tests)
      if (!test(unit)) return true;
    return false;
  });
  if (recording.units.empty())
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: none of its {} units fits '{}'", recording.path, before, filter),
                 "units"};
  return {};
}

}  // namespace cortex
