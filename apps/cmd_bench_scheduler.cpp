#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench_commands.h"
#include "scheduler/simulation.h"

namespace cortex {
namespace {

// What a run holds in memory.
constexpr double kMostRequests = 2e7;

/// Medians of benchmarks/results/cpu_decode.json, int8 on 2 threads, at two sizes of batch.
struct Defaults {
  SimulatedCost cost;
  double keys = 0;
  double deadline_ms = 0;
};
// cortex-s: 11,281 us for 1 and 87,563 us for 8 windows of 512 events.
constexpr Defaults kWindows{
    .cost = {.batch_us = 383, .row_us = 10'897, .jitter = 0.06}, .keys = 512, .deadline_ms = 100};
// stream-nano: 18 us for 1 and 122 us for 16 steps of 40 events.
constexpr Defaults kSessions{
    .cost = {.batch_us = 11, .row_us = 6.9, .jitter = 0.16}, .keys = 40, .deadline_ms = 20};

struct SchedulerFlags {
  Load load = Load::poisson;
  double utilisation = 1;
  double seconds = 60;
  double ramp = 5;
  std::uint64_t seed = 1;
  std::vector<std::string> policies;
  std::optional<double> batch_us, row_us, key_us, jitter, keys, deadline_ms;
  double stall_hz = 0;
  double stall_us = 0;
  double deadline_spread = 0.5;
  double step_rate_hz = 50;
  PolicyOptions policy;
  double window_ms = 5;
  bool json = false;
};

const std::map<std::string, Load> kLoads = {
    {"poisson", Load::poisson}, {"bursty", Load::bursty}, {"sessions", Load::sessions}};
const std::vector<std::string> kPolicies = {"cortex", "fifo", "fixed_window", "edf"};

const char* name_of(Load load) {
  for (const auto& [name, value] : kLoads)
    if (value == load) return name.c_str();
  return "";
}

WorkloadOptions workload_options(const SchedulerFlags& flags) {
  const Defaults& d = flags.load == Load::sessions ? kSessions : kWindows;
  WorkloadOptions o;
  o.load = flags.load;
  o.utilisation = flags.utilisation;
  o.seconds = flags.seconds;
  o.ramp = flags.ramp;
  o.seed = flags.seed;
  o.keys = flags.keys.value_or(d.keys);
  o.deadline_ms = flags.deadline_ms.value_or(d.deadline_ms);
  o.deadline_spread = flags.deadline_spread;
  o.step_rate_hz = flags.step_rate_hz;
  o.max_batch = flags.policy.max_batch;
  o.cost = {.batch_us = flags.batch_us.value_or(d.cost.batch_us),
            .row_us = flags.row_us.value_or(d.cost.row_us),
            .key_us = flags.key_us.value_or(d.cost.key_us),
            .jitter = flags.jitter.value_or(d.cost.jitter),
            .stall_hz = flags.stall_hz,
            .stall_us = flags.stall_us};
  if (!(o.cost.mean_us(1, o.keys) > 0))
    throw CLI::ValidationError("--row-us", "a batch takes no time: give it a cost");
  const double capacity = simulated_capacity_hz(o.cost, o.keys, o.max_batch);
  if (const double n = o.utilisation * capacity * (o.seconds + o.ramp); n > kMostRequests)
    throw CLI::ValidationError(
        "--seconds", fmt::format("{:.3g} requests would be simulated, at most {:.3g} are: give "
                                 "fewer seconds",
                                 n, kMostRequests));
  return o;
}

std::unique_ptr<SchedulingPolicy> make_policy(const std::string& name, const SchedulerFlags& flags,
                                              const WorkloadOptions& o) {
  if (name == "fifo") return make_fifo_policy(flags.policy);
  if (name == "edf") return make_plain_edf_policy(flags.policy);
  if (name == "fixed_window")
    return make_fixed_window_policy(flags.policy, static_cast<TimeNs>(flags.window_ms * 1e6));
  return make_cortex_policy(flags.policy,
                            simulated_warm_up(o.cost, o.keys, o.max_batch, flags.seed));
}

struct PolicyResult {
  std::string policy;
  SimulationResult result;
};

std::string as_json(const SchedulerFlags& flags, const WorkloadOptions& o, double capacity_hz,
                    const std::vector<PolicyResult>& results) {
  JsonWriter w;
  w.begin_object().key("benchmark").value("scheduler").key("load").value(name_of(o.load));
  w.key("utilisation").value(o.utilisation).key("seconds").value(o.seconds);
  w.key("ramp").value(o.ramp).key("seed").value(static_cast<std::int64_t>(o.seed));
  w.key("capacity_hz").value(capacity_hz).key("events").value(o.keys);
  w.key("deadline_ms").value(o.deadline_ms).key("max_batch").value(o.max_batch);
  w.key("max_queued").value(flags.policy.max_queued);
  if (o.load == Load::sessions) {
    w.key("step_rate_hz").value(o.step_rate_hz);
    w.key("max_utilisation").value(flags.policy.max_utilisation);
  } else {
    w.key("deadline_spread").value(o.deadline_spread);
  }
  w.key("cost").begin_object().key("batch_us").value(o.cost.batch_us);
  w.key("row_us").value(o.cost.row_us).key("event_us").value(o.cost.key_us);
  w.key("jitter").value(o.cost.jitter).key("stall_hz").value(o.cost.stall_hz);
  w.key("stall_us").value(o.cost.stall_us).end_object();
  w.key("results").begin_array();
  for (const auto& [policy, r] : results) {
    w.begin_object().key("policy").value(policy);
    w.key("goodput_fraction").value(r.goodput_fraction).key("miss_rate").value(r.miss_rate);
    w.key("broken_rate").value(r.broken_rate).key("offered").value(r.offered);
    w.key("refused").value(r.refused).key("shed").value(r.shed).key("late").value(r.late);
    w.key("in_time").value(r.in_time).key("p50_ms").value(r.p50_ms).key("p99_ms").value(r.p99_ms);
    w.key("busy_fraction").value(r.busy_fraction);
    w.key("mean_batch").value(static_cast<double>(r.rows) / static_cast<double>(r.batches));
    if (o.load == Load::sessions)
      w.key("sessions").value(r.sessions).key("sessions_refused").value(r.sessions_refused);
    w.end_object();
  }
  w.end_array().end_object();
  return w.text();
}

void print_for_a_person(const WorkloadOptions& o, double capacity_hz,
                        const std::vector<PolicyResult>& results) {
  fmt::print("{} load at {:.0f}% of {:.6g} requests/s, {:g} s simulated\n", name_of(o.load),
             100 * o.utilisation, capacity_hz, o.seconds);
  fmt::print("  {:<14} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9} {:>6}\n", "policy", "goodput", "missed",
             "broken", "refused", "p50 ms", "p99 ms", "batch");
  for (const auto& [policy, r] : results)
    fmt::print("  {:<14} {:>7.1f}% {:>7.1f}% {:>7.2f}% {:>9} {:>9.3f} {:>9.3f} {:>6.2f}\n", policy,
               100 * r.goodput_fraction, 100 * r.miss_rate, 100 * r.broken_rate, r.refused,
               r.p50_ms, r.p99_ms, static_cast<double>(r.rows) / static_cast<double>(r.batches));
}

void run_scheduler(const SchedulerFlags& flags) {
  const WorkloadOptions options = workload_options(flags);
  const Workload workload = make_workload(options);
  std::vector<PolicyResult> results;
  for (const std::string& name : flags.policies.empty() ? kPolicies : flags.policies)
    results.push_back(
        {name, simulate(workload, options.cost, flags.seed, *make_policy(name, flags, options))});
  if (flags.json)
    fmt::print("{}\n", as_json(flags, options, workload.capacity_hz, results));
  else
    print_for_a_person(options, workload.capacity_hz, results);
}

}  // namespace

void add_bench_scheduler(CLI::App& bench) {
  auto flags = std::make_shared<SchedulerFlags>();
  CLI::App* command = bench.add_subcommand(
      "scheduler",
      "Simulate an engine under load: its scheduler beside FIFO, a fixed window and "
      "plain EDF.");
  const auto number = [&](const char* name, auto& value, const char* help, double least,
                          double most) {
    return command->add_option(name, value, help)->check(CLI::Range(least, most));
  };
  command->add_option("--load", flags->load, "poisson or bursty windows, or sessions")
      ->transform(CLI::CheckedTransformer(kLoads))
      ->default_str("poisson");
  number("--utilisation", flags->utilisation, "offered load over capacity", 0.01, 10)
      ->capture_default_str();
  number("--seconds", flags->seconds, "simulated, that count", 0.1, 86400)->capture_default_str();
  number("--ramp", flags->ramp, "seconds before them; sessions open within", 0, 3600)
      ->capture_default_str();
  command->add_option("--seed", flags->seed, "of arrivals and costs")->capture_default_str();
  command->add_option("--policy", flags->policies, "cortex, fifo, fixed_window, edf; default: all")
      ->check(CLI::IsMember(kPolicies));
  number("--batch-us", flags->batch_us, "a batch takes this; default: as measured, see below", 0,
         1e7);
  number("--row-us", flags->row_us, "and this for each window or step in it", 0, 1e7);
  number("--event-us", flags->key_us, "and this for each event", 0, 1e6);
  number("--jitter", flags->jitter, "standard deviation of its logarithm", 0, 2);
  number("--stall-hz", flags->stall_hz, "stalls a second of busy time", 0, 1e6)
      ->capture_default_str();
  number("--stall-us", flags->stall_us, "length of one", 0, 1e7)->capture_default_str();
  number("--events", flags->keys, "mean of a window (default 512) or step (40)", 0, 1e6);
  number("--deadline-ms", flags->deadline_ms, "default: windows 100, steps 20", 0.001, 1e6);
  number("--deadline-spread", flags->deadline_spread, "of windows, +- this share", 0, 1)
      ->capture_default_str();
  number("--step-rate-hz", flags->step_rate_hz, "of a session", 0.01, 1e5)->capture_default_str();
  number("--max-batch", flags->policy.max_batch, "steps or windows", 1, 4096)
      ->capture_default_str();
  number("--max-queued", flags->policy.max_queued, "windows; more are refused by every policy", 1,
         1e6)
      ->capture_default_str();
  number("--max-utilisation", flags->policy.max_utilisation,
         "of the predicted capacity, that sessions may reserve", 0.01, 10)
      ->capture_default_str();
  number("--window-ms", flags->window_ms, "of the fixed window", 0.001, 1e4)->capture_default_str();
  command->add_flag("--json", flags->json, "print one JSON object");
  command->footer(
      "Example:\n"
      "  cortex bench scheduler --load poisson --utilisation 1.2 --json\n"
      "Costs are by default those of cortex-s windows, or of stream-nano steps, both int8 on two\n"
      "cores as in benchmarks/results/cpu_decode.json.");
  command->callback([flags] { run_scheduler(*flags); });
}

}  // namespace cortex
