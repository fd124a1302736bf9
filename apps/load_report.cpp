#include "load_report.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "core/json_writer.h"

namespace cortex {
namespace {

struct Quantile {
  const char* name;
  double q;
};
constexpr std::array<Quantile, 4> kQuantiles = {
    {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}}};

double us(std::int64_t ns) { return static_cast<double>(ns) * 1e-3; }

std::string quantile_line(const char* name, const LoadHistogram& h) {
  std::string line = fmt::format("{:12}", name);
  for (const auto& [label, q] : kQuantiles)
    line += fmt::format(" {} {:.1f}", label, us(h.quantile_ns(q)));
  return line + fmt::format(" max {:.1f} us\n", us(h.max_ns()));
}

void write_histogram(JsonWriter& w, const char* key, const LoadHistogram& h) {
  w.key(key).begin_object().key("count").value(h.count());
  for (const auto& [label, q] : kQuantiles) w.key(label).value(us(h.quantile_ns(q)));
  w.key("max").value(us(h.max_ns())).end_object();
}

const char* name_of(Arrivals arrivals) {
  switch (arrivals) {
    case Arrivals::clock:
      return "clock";
    case Arrivals::poisson:
      return "poisson";
    case Arrivals::trace:
      return "trace";
    case Arrivals::closed:
      return "closed";
  }
  return "closed";
}

const char* name_of(Wire wire) {
  return wire == Wire::http ? "http" : wire == Wire::json ? "json" : "binary";
}

std::string where(const LoadOptions& options) {
  return options.in_process() ? "in process"
                              : fmt::format("{} ({})", options.url, name_of(options.wire));
}

/// Ours minus the echo's.
double added_us(const LoadReport& r, double q) {
  return us(r.tally.latency.quantile_ns(q)) - us(r.echo->latency.quantile_ns(q));
}

}  // namespace

bool LoadReport::was_served() const {
  const auto refused_with = [this](ErrorCode code) {
    return tally.errors.contains(to_string(code));
  };
  return tally.answered + tally.withheld > 0 || refused_with(ErrorCode::deadline_exceeded) ||
         refused_with(ErrorCode::resource_exhausted);
}

std::string load_text(const LoadReport& r) {
  const LoadTally& t = r.tally;
  const char* what = r.options.windows ? "connections" : "sessions";
  std::string text =
      fmt::format("load        {} {} of {} {}, ", r.ports, what, r.facts.name, where(r.options));
  text += r.rate_hz > 0 ? fmt::format("{} at {:.6g} Hz{}", name_of(r.options.arrivals), r.rate_hz,
                                      r.options.windows ? " in all" : " each")
                        : std::string("each request when the one before it is answered");
  text += fmt::format(", {:.1f} s\n", r.seconds);
  for (const auto& [code, count] : r.refused)
    text +=
        fmt::format("at the door {} sessions refused: {} ({})\n", count, code, r.refused_because);
  text += fmt::format("offered     {} ({:.1f}/s), answered {} ({:.1f}/s)\n", t.offered,
                      r.per_second(t.offered), t.answered, r.per_second(t.answered));
  text += fmt::format("goodput     {:.1f}/s in time, miss rate {:.6f}\n", r.per_second(t.in_time),
                      r.miss_rate());
  if (t.marked_late + t.withheld + t.answered_late > 0)
    text += fmt::format(
        "late        {} marked by the server, {} answered after the deadline by its own clock, {} "
        "withheld\n",
        t.marked_late, t.answered_late, t.withheld);
  if (t.lost + t.unanswered > 0)
    text += fmt::format("no reply    {} lost with their {}, {} not answered {:g} s after the end\n",
                        t.lost, what, t.unanswered, r.options.drain_s);
  for (const auto& [code, count] : t.errors)
    text += fmt::format("errors      {} {}: {}\n", count, code, t.error_example.at(code));
  if (r.lost_ports > 0)
    text += fmt::format("lost        {} {}: {}\n", r.lost_ports, what, r.lost_because);
  text += quantile_line("latency", t.latency) + quantile_line("from sending", t.from_sent) +
          quantile_line("server says", t.server) + quantile_line("sent late by", t.lag);
  if (r.echo) {
    text += quantile_line("echo", r.echo->latency);
    text +=
        fmt::format("added       p50 {:.1f} p99 {:.1f} us\n", added_us(r, 0.5), added_us(r, 0.99));
  }
  if (r.verify) {
    text += fmt::format("verified    {} streams, {} steps, {} withheld: {} wrong\n",
                        r.verify->streams, r.verify->steps, r.verify->withheld, r.verify->wrong);
    if (r.verify->wrong > 0) text += fmt::format("wrong       {}\n", r.verify->first_wrong);
  }
  if (r.check)
    text += fmt::format("verified    {} windows, {} with the same bits, largest error {:.2g}\n",
                        r.check->compared, r.check->exact, r.check->worst);
  return text;
}

std::string load_json(const LoadReport& r) {
  const LoadTally& t = r.tally;
  JsonWriter w;
  w.begin_object();
  w.key("kind").value(r.options.windows ? "windows" : "sessions");
  w.key("model").value(r.facts.name).key("digest").value(r.facts.digest);
  w.key("where").value(r.options.in_process() ? "in process" : r.options.url);
  w.key("wire").value(r.options.in_process() ? "in process" : name_of(r.options.wire));
  w.key("arrivals").value(name_of(r.options.arrivals)).key("rate_hz").value(r.rate_hz);
  w.key("warmup_s").value(r.options.warmup_s);
  w.key("seconds").value(r.seconds).key("events").value(r.options.events);
  w.key("deadline_ms").value(r.options.deadline_ms);
  w.key(r.options.windows ? "connections" : "sessions").value(r.ports);
  w.key("generators").value(r.options.generators).key("poll_us").value(r.options.poll_us);
  w.key("refused").begin_object();
  for (const auto& [code, count] : r.refused) w.key(code).value(count);
  w.end_object();
  w.key("lost_ports").value(r.lost_ports);
  if (r.lost_ports > 0) w.key("lost_because").value(r.lost_because);
  w.key("offered").value(t.offered).key("answered").value(t.answered);
  w.key("in_time").value(t.in_time).key("marked_late").value(t.marked_late);
  w.key("answered_late").value(t.answered_late).key("withheld").value(t.withheld);
  w.key("lost").value(t.lost).key("unanswered").value(t.unanswered);
  w.key("errors").begin_object();
  for (const auto& [code, count] : t.errors) w.key(code).value(count);
  w.end_object();
  w.key("offered_hz").value(r.per_second(t.offered));
  w.key("answered_hz").value(r.per_second(t.answered));
  w.key("goodput_hz").value(r.per_second(t.in_time)).key("miss_rate").value(r.miss_rate());
  write_histogram(w, "latency_us", t.latency);
  write_histogram(w, "from_sent_us", t.from_sent);
  write_histogram(w, "server_us", t.server);
  write_histogram(w, "lag_us", t.lag);
  if (r.echo) {
    write_histogram(w, "echo_us", r.echo->latency);
    w.key("added_us").begin_object();
    for (const auto& [label, q] : kQuantiles) w.key(label).value(added_us(r, q));
    w.end_object();
  }
  if (r.verify) {
    w.key("verify").begin_object().key("streams").value(r.verify->streams);
    w.key("steps").value(r.verify->steps).key("withheld").value(r.verify->withheld);
    w.key("wrong").value(r.verify->wrong).end_object();
  }
  if (r.check) {
    w.key("verify").begin_object().key("windows").value(r.check->compared);
    w.key("exact").value(r.check->exact).key("worst").value(r.check->worst).end_object();
  }
  w.end_object();
  return w.text();
}

}  // namespace cortex
