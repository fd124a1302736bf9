#include "profile_report.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/json_writer.h"

namespace cortex {
namespace {

void add(ProfileEntry& to, const ProfileEntry& from) {
  to.calls += from.calls;
  to.ns += from.ns;
  to.flop += from.flop;
  to.weight_bytes += from.weight_bytes;
  to.other_bytes += from.other_bytes;
}

std::string label(const ProfileEntry& e) {
  if (e.out == 0) return e.operation;
  return fmt::format("{} {}x{}", e.operation, e.out, e.in);
}

double ratio(double a, double b) { return b > 0 ? a / b : 0; }

/// Numbers of a row, means over the recorded forwards.
struct Row {
  double us, share, gflop, gflops, weight_mb, other_mb, gbs, floor_us, of_floor;
};

/// `floor`: the sum of the floors of the row's operations, ns.
Row make_row(const ProfileEntry& e, double floor, double forwards, double whole_ns) {
  const auto ns = static_cast<double>(e.ns);
  return {.us = ns * 1e-3 / forwards,
          .share = ratio(ns, whole_ns),
          .gflop = e.flop * 1e-9 / forwards,
          .gflops = ratio(e.flop, ns),
          .weight_mb = e.weight_bytes * 1e-6 / forwards,
          .other_mb = e.other_bytes * 1e-6 / forwards,
          .gbs = ratio(e.weight_bytes + e.other_bytes, ns),
          .floor_us = floor * 1e-3 / forwards,
          .of_floor = ratio(floor, ns)};
}

/// The floor of a section is the sum of its operations' floors: they run one after the other.
double section_floor(const ProfileSection& section, const Ceilings& ceilings) {
  double sum = 0;
  for (const ProfileEntry& e : section.operations) sum += floor_ns(e, ceilings);
  return sum;
}

void write_row(JsonWriter& json, const Row& row, bool floors) {
  json.key("us").value(row.us).key("share").value(row.share);
  json.key("gflop").value(row.gflop).key("gflop_per_s").value(row.gflops);
  json.key("weight_mb").value(row.weight_mb).key("other_mb").value(row.other_mb);
  json.key("gb_per_s").value(row.gbs);
  json.key("floor_us");
  floors ? json.value(row.floor_us) : json.null();
  json.key("floor_share");
  floors ? json.value(row.of_floor) : json.null();
}

struct Profile {
  std::vector<ProfileSection> sections;
  ProfileEntry total;
  double floor = 0;
  double forwards = 1;
  double whole_ns = 0;
};

Profile summarize(const ProfilingOps& ops, const Ceilings& ceilings) {
  Profile p;
  p.sections = group_sections(ops.entries());
  p.forwards = static_cast<double>(std::max<std::int64_t>(1, ops.forwards()));
  p.whole_ns = static_cast<double>(ops.forward_ns());
  for (const ProfileSection& s : p.sections) {
    add(p.total, s.total);
    p.floor += section_floor(s, ceilings);
  }
  return p;
}

bool known(const Ceilings& ceilings) { return ceilings.gflops > 0 || ceilings.gbs > 0; }

}  // namespace

std::vector<ProfileSection> group_sections(std::span<const ProfileEntry> entries) {
  std::vector<ProfileSection> sections;
  for (const ProfileEntry& e : entries) {
    const std::string name = e.section.data();
    auto at = std::find_if(sections.begin(), sections.end(),
                           [&](const ProfileSection& s) { return s.name == name; });
    if (at == sections.end()) at = sections.insert(sections.end(), {name, {}, {}});
    add(at->total, e);
    at->operations.push_back(e);
  }
  return sections;
}

std::string profile_text(const ProfilingOps& ops, const ProfileContext& c) {
  const Profile p = summarize(ops, c.ceilings);
  const bool floors = known(c.ceilings);
  std::string text = fmt::format(
      "{}: {}, {} parameters, backend {}, batch {}, {} events each\n"
      "forward: mean {:.1f} us, p50 {:.1f} us, p99 {:.1f} us over {} of them\n",
      c.model, c.precision, c.parameters, c.backend, c.batch, c.events,
      p.whole_ns * 1e-3 / p.forwards, c.p50_us, c.p99_us, ops.forwards());
  if (floors)
    text += fmt::format("floor: {:.1f} us at {:g} GFLOP/s and {:g} GB/s\n",
                        p.floor * 1e-3 / p.forwards, c.ceilings.gflops, c.ceilings.gbs);
  text +=
      fmt::format("\n{:<32} {:>10} {:>7} {:>9} {:>9} {:>10} {:>8}{}\n", "section, operation", "us",
                  "share", "GFLOP", "GFLOP/s", "weight MB", "GB/s", floors ? "  of floor" : "");
  const auto line = [&](const std::string& name, const ProfileEntry& e, double floor) {
    const Row r = make_row(e, floor, p.forwards, p.whole_ns);
    text += fmt::format("{:<32} {:>10.2f} {:>6.1f}% {:>9.5f} {:>9.1f} {:>10.3f} {:>8.1f}", name,
                        r.us, 100 * r.share, r.gflop, r.gflops, r.weight_mb, r.gbs);
    text += floors ? fmt::format(" {:>9.0f}%\n", 100 * r.of_floor) : "\n";
  };
  for (const ProfileSection& s : p.sections) {
    line(s.name, s.total, section_floor(s, c.ceilings));
    for (const ProfileEntry& e : s.operations) line("  " + label(e), e, floor_ns(e, c.ceilings));
  }
  ProfileEntry between;
  between.ns = ops.forward_ns() - p.total.ns;
  line("between the operations", between, 0);
  ProfileEntry whole = p.total;
  whole.ns = ops.forward_ns();
  line("whole", whole, p.floor);
  return text;
}

std::string profile_json(const ProfilingOps& ops, const ProfileContext& c) {
  const Profile p = summarize(ops, c.ceilings);
  const bool floors = known(c.ceilings);
  JsonWriter json;
  json.begin_object();
  json.key("model").value(c.model).key("backend").value(c.backend);
  json.key("precision").value(c.precision).key("parameters").value(c.parameters);
  json.key("batch").value(c.batch).key("events").value(c.events);
  json.key("forwards").value(ops.forwards());
  json.key("forward_us").begin_object().key("mean").value(p.whole_ns * 1e-3 / p.forwards);
  json.key("p50").value(c.p50_us).key("p99").value(c.p99_us).end_object();
  json.key("ceilings");
  if (floors) {
    json.begin_object().key("gflop_per_s").value(c.ceilings.gflops);
    json.key("gb_per_s").value(c.ceilings.gbs).end_object();
  } else {
    json.null();
  }
  ProfileEntry whole = p.total;
  whole.ns = ops.forward_ns();
  json.key("whole").begin_object();
  write_row(json, make_row(whole, p.floor, p.forwards, p.whole_ns), floors);
  json.end_object();
  json.key("between_us").value(static_cast<double>(whole.ns - p.total.ns) * 1e-3 / p.forwards);
  json.key("sections").begin_array();
  for (const ProfileSection& s : p.sections) {
    json.begin_object().key("name").value(s.name);
    write_row(json, make_row(s.total, section_floor(s, c.ceilings), p.forwards, p.whole_ns),
              floors);
    json.key("operations").begin_array();
    for (const ProfileEntry& e : s.operations) {
      json.begin_object().key("name").value(e.operation);
      json.key("out").value(e.out).key("in").value(e.in);
      json.key("calls").value(static_cast<double>(e.calls) / p.forwards);
      write_row(json, make_row(e, floor_ns(e, c.ceilings), p.forwards, p.whole_ns), floors);
      json.end_object();
    }
    json.end_array().end_object();
  }
  json.end_array().end_object();
  return json.text();
}

}  // namespace cortex
