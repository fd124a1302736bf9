#include "scheduler/workload.h"

#include <algorithm>
#include <cmath>

#include "core/random.h"

namespace cortex {
namespace {

// A burst: its share of time, its rate and the rate between bursts over the mean rate, its length.
constexpr double kBurstShare = 0.2;
constexpr double kBurstRate = 3;
constexpr double kCalmRate = (1 - kBurstShare * kBurstRate) / (1 - kBurstShare);
constexpr double kBurstSeconds = 0.2;
constexpr double kCalmSeconds = kBurstSeconds * (1 - kBurstShare) / kBurstShare;
// From here on a Poisson count is as good as normal.
constexpr double kManyEvents = 64;

TimeNs to_ns(double seconds) { return static_cast<TimeNs>(seconds * 1e9); }

std::int32_t poisson(Random& random, double mean) {
  if (mean > kManyEvents)
    return static_cast<std::int32_t>(
        std::max(0L, std::lround(mean + std::sqrt(mean) * random.normal())));
  std::int32_t count = 0;
  for (double left = mean - random.exponential(1); left > 0; left -= random.exponential(1)) ++count;
  return count;
}

class Maker {
 public:
  explicit Maker(const WorkloadOptions& options)
      : options_(options), end_(options.ramp + options.seconds), random_(options.seed, {}) {}

  Workload windows(double rate_hz) {
    Workload load;
    const bool bursty = options_.load == Load::bursty;
    bool burst = false;
    double phase_end = bursty ? random_.exponential(1 / kCalmSeconds) : end_;
    for (double at = 0; at < end_;) {
      const double factor = !bursty ? 1 : burst ? kBurstRate : kCalmRate;
      const double next = at + random_.exponential(rate_hz * factor);
      if (bursty && next > phase_end) {
        // Exponential gaps have no memory: the next one starts with the phase.
        at = phase_end;
        burst = !burst;
        phase_end += random_.exponential(1 / (burst ? kBurstSeconds : kCalmSeconds));
        continue;
      }
      at = next;
      if (at < end_) load.requests.push_back(request(at, -1));
    }
    return load;
  }

  Workload sessions(double rate_hz) {
    Workload load;
    load.step_rate_hz = options_.step_rate_hz;
    load.sessions = static_cast<int>(std::lround(rate_hz / options_.step_rate_hz));
    const double period = 1 / options_.step_rate_hz;
    for (int s = 0; s < load.sessions; ++s)
      for (double at = options_.ramp * random_.uniform(); at < end_; at += period)
        load.requests.push_back(request(at, s));
    std::stable_sort(load.requests.begin(), load.requests.end(),
                     [](const Request& a, const Request& b) { return a.arrived < b.arrived; });
    return load;
  }

 private:
  Request request(double at, int session) {
    const TimeNs arrived = to_ns(at);
    double deadline = options_.deadline_ms * 1e-3;
    if (session < 0) deadline *= 1 + options_.deadline_spread * (2 * random_.uniform() - 1);
    return {.arrived = arrived,
            .deadline = arrived + to_ns(deadline),
            .keys = poisson(random_, options_.keys),
            .session = session};
  }

  const WorkloadOptions& options_;
  const double end_;
  Random random_;
};

}  // namespace

double simulated_capacity_hz(const SimulatedCost& cost, double keys, int max_batch) {
  double best = 0;
  for (int rows = 1; rows <= max_batch; ++rows)
    best = std::max(best, rows * 1e6 / cost.mean_us(rows, rows * keys));
  return best;
}

Workload make_workload(const WorkloadOptions& options) {
  const double capacity = simulated_capacity_hz(options.cost, options.keys, options.max_batch);
  Maker maker(options);
  const double rate = options.utilisation * capacity;
  Workload load = options.load == Load::sessions ? maker.sessions(rate) : maker.windows(rate);
  load.counted_from = to_ns(options.ramp);
  load.seconds = options.seconds;
  load.capacity_hz = capacity;
  return load;
}

}  // namespace cortex
