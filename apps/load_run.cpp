#include "load_run.h"

#include <fmt/format.h>
#include <sys/prctl.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "load_sessions.h"
#include "load_target.h"

namespace cortex {
namespace {

/// How long the server and its echo have their turns.
constexpr double kTurnS = 1;
constexpr int kWindowBins = 120;

TimeNs now() { return RealClock::instance().now(); }

std::vector<TimeNs> read_trace(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw Exception{{ErrorCode::not_found, path + ": cannot be read", "trace"}};
  std::vector<TimeNs> times;
  std::string line;
  while (std::getline(file, line)) {
    double seconds = 0;
    const auto parsed = std::from_chars(line.data(), line.data() + line.size(), seconds);
    if (parsed.ec != std::errc{} || !(seconds >= 0) || !std::isfinite(seconds) ||
        (!times.empty() && nanoseconds(seconds) < times.back()))
      throw Exception{{ErrorCode::invalid_argument,
                       fmt::format("{}:{}: '{}' is no time in seconds at or after the one before "
                                   "it",
                                   path, times.size() + 1, line),
                       "trace"}};
    times.push_back(nanoseconds(seconds));
  }
  if (times.empty()) throw Exception{{ErrorCode::invalid_argument, path + ": no times", "trace"}};
  return times;
}

void check_facts(LoadFacts& facts, const LoadOptions& options) {
  const auto fail = [](std::string message, const char* field) {
    throw Exception{{ErrorCode::invalid_argument, std::move(message), field}};
  };
  if (!options.windows && facts.kind != "stream")
    fail(fmt::format("{} is a {} model, which has no sessions: --windows", facts.name, facts.kind),
         "windows");
  if (options.windows && facts.kind == "stream") {
    // Its steps share the events of a window among them.
    facts.bins = kWindowBins;
  } else if (options.windows) {
    facts.bins = std::min(facts.bins, kWindowBins);
    if (options.events > facts.max_events)
      fail(fmt::format("--events {}: a window of {} holds at most {}", options.events, facts.name,
                       facts.max_events),
           "events");
  }
}

/// The seconds that count of a load that began at `begun`: less than asked for where it ended
/// early, with nobody left to ask.
double counted_s(TimeNs begun, const LoadOptions& options) {
  const double ran_s = static_cast<double>(now() - begun) * 1e-9;
  return std::clamp(ran_s - options.warmup_s, 0.0, options.seconds);
}

/// From now on; what is due in the first `warmup_s` of it does not count.
LoadTime lasting(double seconds, double warmup_s, const LoadOptions& options) {
  return {
      .seconds = seconds, .counts_from = now() + nanoseconds(warmup_s), .drain_s = options.drain_s};
}

LoadTime whole_time(const LoadOptions& options) {
  return lasting(options.warmup_s + options.seconds, options.warmup_s, options);
}

/// Runs `load` for the whole time; or by turns with its echo, each for the whole time.
template <class Load>
void run_turns(Load& load, Load* echo, LoadReport& report) {
  const LoadOptions& options = report.options;
  if (echo == nullptr) {
    const TimeNs begun = now();
    load.run(whole_time(options), report.tally);
    report.seconds = counted_s(begun, options);
    return;
  }
  report.echo.emplace();
  LoadTally warm;
  const auto turn = [&](double seconds) { return lasting(seconds, 0, options); };
  load.run(turn(options.warmup_s), warm);
  echo->run(turn(options.warmup_s), warm);
  double left = options.seconds;
  while (left > 0) {
    const double seconds = std::min(left, kTurnS);
    load.run(turn(seconds), report.tally);
    echo->run(turn(seconds), *report.echo);
    left -= kTurnS;
  }
}

/// Lets farewells leave and their answers come.
void settle(LoadPoller& poller) {
  const TimeNs until = now() + nanoseconds(0.2);
  while (now() < until) poller.wait(until);
}

/// A thread of sessions: what it sends and what it was answered.
struct Generator {
  Generator(const LoadEvents& of_all, TimeNs poll_ns) : poller(poll_ns), events(of_all) {}
  LoadPoller poller;
  LoadEvents events;
  LoadTarget::Opened opened = {};
  std::optional<SessionLoad> load = {};
  LoadTally tally = {};
};

/// Each of `generators` with its sessions on a thread of its own, for the whole time.
void run_side_by_side(std::vector<std::unique_ptr<Generator>>& generators, LoadReport& report) {
  const LoadOptions& options = report.options;
  const TimeNs begun = now();
  std::vector<std::jthread> threads;
  for (const auto& g : generators) {
    g->tally.deadline_ns = report.tally.deadline_ns;
    threads.emplace_back([&options, generator = g.get()] {
      generator->load->run(whole_time(options), generator->tally);
    });
  }
  threads.clear();
  report.seconds = counted_s(begun, options);
  for (const auto& g : generators) report.tally.add(g->tally);
}

void run_sessions(LoadTarget& target, const LoadEvents& events, LoadReport& report) {
  const LoadOptions& options = report.options;
  std::vector<std::unique_ptr<Generator>> generators;
  for (int i = 0; i < options.generators; ++i) {
    auto& g = *generators.emplace_back(
        std::make_unique<Generator>(events, nanoseconds(options.poll_us * 1e-6)));
    const int first = options.sessions * i / options.generators;
    const int end = options.sessions * (i + 1) / options.generators;
    g.opened = target.open(g.poller, g.events, end - first);
    report.ports += static_cast<int>(g.opened.ports.size());
    for (const auto& [code, count] : g.opened.refused) report.refused[code] += count;
    if (report.refused_because.empty()) report.refused_because = g.opened.refused_because;
  }
  const bool is_paced = options.arrivals != Arrivals::closed;
  if (is_paced)
    report.rate_hz = options.rate_hz > 0 ? options.rate_hz : 1000 / report.facts.step_ms;
  const TimeNs period = is_paced ? nanoseconds(1 / report.rate_hz) : 0;
  const bool keeps = !options.verify.empty();
  int first = 0;
  for (const auto& g : generators) {
    const int count = static_cast<int>(g->opened.ports.size());
    g->load.emplace(g->poller, std::move(g->opened.ports), g->events,
                    SessionLoad::Share{first, report.ports}, period, report.facts.outputs, keeps);
    first += count;
  }
  Generator& one = *generators.front();
  std::optional<SessionLoad> echo;
  if (options.echo)
    echo.emplace(one.poller, target.open_echo(one.poller, one.events, report.ports).ports,
                 one.events, SessionLoad::Share{0, report.ports}, period, report.facts.outputs,
                 false);
  if (generators.size() > 1)
    run_side_by_side(generators, report);
  else
    run_turns(*one.load, echo ? &*echo : nullptr, report);
  std::vector<SessionRecord> records;
  for (const auto& g : generators) {
    g->load->close();
    settle(g->poller);
    report.lost_ports += g->load->lost_sessions();
    for (const SessionRecord& record : g->load->records()) {
      if (report.lost_because.empty()) report.lost_because = record.lost;
      records.push_back(record);
    }
  }
  if (keeps) report.verify = verify_sessions(options.verify, report.facts, one.events, records);
}

void run_windows(LoadTarget& target, LoadEvents& events, LoadReport& report) {
  const LoadOptions& options = report.options;
  std::vector<TimeNs> trace;
  if (options.arrivals == Arrivals::trace) trace = read_trace(options.trace);
  WindowCheck check;
  if (!options.verify.empty()) {
    // Before the load, which it would slow.
    check.expected = expected_windows(options.verify, report.facts, events);
    for (const float y : check.expected)
      check.scale = std::max(check.scale, std::abs(static_cast<double>(y)));
  }
  LoadPoller poller(nanoseconds(options.poll_us * 1e-6));
  auto opened = target.open(poller, events, options.connections);
  report.ports = static_cast<int>(opened.ports.size());
  if (options.arrivals != Arrivals::closed) report.rate_hz = options.rate_hz;
  WindowLoad load(poller, std::move(opened.ports), events, options, trace);
  load.check() = std::move(check);
  std::optional<WindowLoad> echo;
  if (options.echo)
    echo.emplace(poller, target.open_echo(poller, events, report.ports).ports, events, options,
                 trace);
  run_turns(load, echo ? &*echo : nullptr, report);
  load.close();
  settle(poller);
  report.lost_ports = load.lost_connections();
  report.lost_because = load.lost_because();
  if (!options.verify.empty()) report.check = load.check();
}

}  // namespace

LoadReport run_load(const LoadOptions& options) {
  // Sleeping threads otherwise wake up to 50 us late to save power.
  ::prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);
  const auto target =
      options.in_process() ? make_engine_target(options) : make_server_target(options);
  LoadReport report;
  report.options = options;
  report.facts = target->facts();
  report.seconds = options.seconds;
  check_facts(report.facts, options);
  if (options.deadline_ms > 0) report.tally.deadline_ns = nanoseconds(options.deadline_ms * 1e-3);
  LoadEvents events(report.facts, options);
  if (options.windows)
    run_windows(*target, events, report);
  else
    run_sessions(*target, events, report);
  return report;
}

}  // namespace cortex
