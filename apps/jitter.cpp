#include "jitter.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <ctime>

#include "core/clock.h"
#include "core/json_writer.h"
#include "core/semaphore.h"
#include "model_source.h"
#include "realtime_report.h"

namespace cortex {
namespace {

constexpr std::int64_t kCalibrationSteps = 200;
constexpr std::int64_t kFirstReads = 1000;
constexpr std::size_t kEventSets = 64;

/// Reads the clock `reads` times; how long that took. A loop that ended at a given time would hide
/// a stall inside it: this one is lengthened by it, as a step is.
TimeNs spin(std::int64_t reads) {
  const RealClock& clock = RealClock::instance();
  const TimeNs began = clock.now();
  TimeNs last = began;
  for (std::int64_t i = 0; i < reads; ++i) last = clock.now();
  return last - began;
}

/// Takes the answers of one run of steps and spins after each, on the compute thread, while the
/// client sleeps.
class JitterSink final : public StepSink {
 public:
  JitterSink(std::int64_t steps, std::int64_t reads) : reads_(reads) {
    // Written, so that no page of theirs faults on the compute thread.
    for (auto* v : {&step_ns, &idle_ns, &answer_ns}) v->assign(static_cast<std::size_t>(steps), 1);
  }

  void on_step(const StepAnswer& a) noexcept override {
    if (at_ == 0) ::getrusage(RUSAGE_THREAD, &before);
    step_ns[at_] = a.finished_ns - a.started_ns;
    answer_ns[at_] = a.finished_ns - a.submitted_ns;
    idle_ns[at_] = spin(reads_);
    if (++at_ == step_ns.size()) ::getrusage(RUSAGE_THREAD, &after);
    answered_.post();
  }
  void wait() { answered_.wait(); }

  std::vector<std::int64_t> step_ns;
  std::vector<std::int64_t> idle_ns;
  std::vector<std::int64_t> answer_ns;
  rusage before{};
  rusage after{};

 private:
  std::int64_t reads_;
  std::size_t at_ = 0;
  Semaphore answered_;
};

void sleep_until(TimeNs when) {
  const timespec at{.tv_sec = when / 1'000'000'000, .tv_nsec = when % 1'000'000'000};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr) == EINTR) {
  }
}

std::int64_t median(std::vector<std::int64_t> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// One session whose steps all hold the same number of events.
class Client {
 public:
  Client(Engine& engine, const ModelConfig& config, const JitterOptions& options)
      : engine_(engine),
        bins_(config.bins_per_step()),
        period_ns_(options.period_us * 1000),
        session_(engine.open_session({.best_effort = true}).value_or_throw().id) {
    std::mt19937_64 random(1);
    for (std::size_t i = 0; i < kEventSets; ++i)
      sets_.push_back(random_events(random, config, options.events, 0, bins_));
  }

  void run(std::int64_t steps, JitterSink& sink) {
    std::vector<Event> events;
    TimeNs due = RealClock::instance().now();
    for (std::int64_t n = 0; n < steps; ++n, ++next_) {
      events = sets_[static_cast<std::size_t>(next_) % kEventSets];
      for (Event& e : events) e.bin += next_ * bins_;
      if (period_ns_ > 0) {
        // After an overrun the clock starts anew: a backlog would be measured as latency.
        due = std::max(due + period_ns_, RealClock::instance().now());
        sleep_until(due);
      }
      engine_.submit({.session = session_, .sequence = next_, .events = events}, sink)
          .value_or_throw();
      sink.wait();
    }
  }
  void close() { (void)engine_.close_session(session_).value_or_throw(); }

 private:
  Engine& engine_;
  const int bins_;
  const std::int64_t period_ns_;
  const SessionId session_;
  std::int64_t next_ = 0;
  std::vector<std::vector<Event>> sets_;
};

void write_summary(JsonWriter& json, const char* name, const LatencySummary& latency) {
  json.key(name).begin_object();
  json.key("p50").value(latency.p50_us).key("p99").value(latency.p99_us);
  json.key("p999").value(latency.p999_us).key("max").value(latency.max_us);
  json.key("spread").value(spread_us(latency)).end_object();
}

}  // namespace

double spread_us(const LatencySummary& latency) { return latency.p99_us - latency.p50_us; }

std::optional<double> jitter_ratio(const JitterReport& report) {
  const double idle = spread_us(report.idle);
  if (!(idle > 0)) return std::nullopt;
  return spread_us(report.step) / idle;
}

JitterReport measure_jitter(Engine& engine, const ModelConfig& config,
                            const JitterOptions& options) {
  Client client(engine, config, options);
  // Until every step of the window is live; then twice towards a spin as long as a step.
  JitterSink warm(config.window_steps + kCalibrationSteps, 0);
  client.run(config.window_steps + kCalibrationSteps, warm);
  std::int64_t reads = kFirstReads;
  for (int round = 0; round < 2; ++round) {
    JitterSink trial(kCalibrationSteps, reads);
    client.run(kCalibrationSteps, trial);
    const double longer = static_cast<double>(median(trial.step_ns)) /
                          static_cast<double>(std::max<std::int64_t>(1, median(trial.idle_ns)));
    reads = std::max<std::int64_t>(1, std::llround(static_cast<double>(reads) * longer));
  }
  JitterSink sink(options.steps, reads);
  client.run(options.steps, sink);
  client.close();

  JitterReport report;
  report.steps = options.steps;
  report.step = summarize_latency(sink.step_ns, options.steps);
  report.idle = summarize_latency(sink.idle_ns, options.steps);
  report.answer = summarize_latency(sink.answer_ns, options.steps);
  report.spin_reads = reads;
  report.switches = sink.after.ru_nivcsw - sink.before.ru_nivcsw;
  report.faults =
      sink.after.ru_minflt + sink.after.ru_majflt - sink.before.ru_minflt - sink.before.ru_majflt;
  return report;
}

std::string jitter_text(const JitterReport& r, const JitterContext& c) {
  std::string text = realtime_lines(c.realtime);
  text += fmt::format("{}, {}: {} steps of {} events, {}{}\n\n", c.model, c.precision, r.steps,
                      c.options.events,
                      c.options.period_us > 0 ? fmt::format("one every {} us", c.options.period_us)
                                              : "back to back",
                      c.realtime.empty() ? ", no real-time mode" : "");
  text += fmt::format("{:<30} {:>9} {:>9} {:>9} {:>9} {:>9}\n", "us", "p50", "p99", "p99.9", "max",
                      "p99-p50");
  const auto line = [&](const char* name, const LatencySummary& s) {
    text += fmt::format("{:<30} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f}\n", name, s.p50_us,
                        s.p99_us, s.p999_us, s.max_us, spread_us(s));
  };
  line("step, compute thread", r.step);
  line("idle spin, compute thread", r.idle);
  line("submit to answer", r.answer);
  const auto ratio = jitter_ratio(r);
  text += fmt::format("\nratio    {} of a step's p99-p50 to the idle spin's, target at most {:g}\n",
                      ratio ? fmt::format("{:.2f}", *ratio) : "none", kJitterTarget);
  text += fmt::format("thread   preempted {} times, {} page faults\n", r.switches, r.faults);
  return text;
}

std::string jitter_json(const JitterReport& r, const JitterContext& c) {
  JsonWriter json;
  json.begin_object().key("model").value(c.model).key("precision").value(c.precision);
  json.key("steps").value(r.steps).key("events").value(c.options.events);
  json.key("period_us");
  c.options.period_us > 0 ? json.value(c.options.period_us) : json.null();
  write_realtime(json, c.realtime);
  write_summary(json, "step_us", r.step);
  write_summary(json, "idle_us", r.idle);
  write_summary(json, "submit_to_answer_us", r.answer);
  json.key("ratio");
  const auto ratio = jitter_ratio(r);
  ratio ? json.value(*ratio) : json.null();
  json.key("ratio_target").value(kJitterTarget);
  json.key("spin_reads").value(r.spin_reads);
  json.key("preemptions").value(r.switches).key("page_faults").value(r.faults);
  json.end_object();
  return json.text();
}

}  // namespace cortex
