#include "scheduler/simulation.h"

#include <algorithm>
#include <cmath>
#include <deque>

#include "core/random.h"

namespace cortex {
namespace {

constexpr int kRepeats = 3;  // of a measurement in a warm-up

/// Draws what batches take.
class Device {
 public:
  Device(const SimulatedCost& cost, std::uint64_t seed) : cost_(cost), random_(seed, {}) {}

  TimeNs run(int rows, std::int64_t keys) {
    double us = cost_.mean_us(rows, static_cast<double>(keys));
    if (cost_.jitter > 0) us *= random_.lognormal(-cost_.jitter * cost_.jitter / 2, cost_.jitter);
    if (cost_.stall_hz > 0 && random_.exponential(cost_.stall_hz) < us * 1e-6) us += cost_.stall_us;
    return std::max<TimeNs>(1, std::llround(us * 1e3));
  }

 private:
  const SimulatedCost& cost_;
  Random random_;
};

double quantile_ms(std::vector<TimeNs>& latencies, double q) {
  if (latencies.empty()) return 0;
  const auto rank =
      std::max<std::int64_t>(1, std::llround(std::ceil(q * static_cast<double>(latencies.size()))));
  const auto at = latencies.begin() + (rank - 1);
  std::nth_element(latencies.begin(), at, latencies.end());
  return static_cast<double>(*at) * 1e-6;
}

class Simulation {
 public:
  Simulation(const Workload& workload, const SimulatedCost& cost, std::uint64_t seed,
             SchedulingPolicy& policy, const AnswerHook& on_answer)
      : load_(workload), device_(cost, seed), policy_(policy), on_answer_(on_answer) {}

  SimulationResult run() {
    sessions_.resize(static_cast<std::size_t>(load_.sessions));
    result_.sessions = load_.sessions;
    TimeNs now = 0;
    for (;;) {
      while (next_ < load_.requests.size() && load_.requests[next_].arrived <= now)
        arrive(next_++, now);
      if (!running_.empty() && free_at_ <= now) finish(now);
      if (running_.empty()) start(now);
      const TimeNs then = next_event();
      if (then == kNever) break;
      now = std::max(now, then);
    }
    return summarize(now);
  }

 private:
  struct Session {
    enum class Door { unseen, open, refused };
    Door door = Door::unseen;
    bool busy = false;  // a step is ready or runs
    std::deque<std::size_t> waiting;
  };

  bool counted(std::size_t id) const { return load_.requests[id].arrived >= load_.counted_from; }

  void arrive(std::size_t id, TimeNs now) {
    const Request& request = load_.requests[id];
    if (counted(id)) ++result_.offered;
    if (request.session < 0) {
      if (!policy_.offer({id, request}, now)) refuse(id, now);
      return;
    }
    Session& session = sessions_[static_cast<std::size_t>(request.session)];
    if (session.door == Session::Door::unseen) {
      const bool open = policy_.open_session(request.session, load_.step_rate_hz, now);
      session.door = open ? Session::Door::open : Session::Door::refused;
      if (!open) ++result_.sessions_refused;
    }
    if (session.door == Session::Door::refused) return refuse(id, now);
    session.waiting.push_back(id);
    if (!session.busy) ready(session, now);
  }

  void ready(Session& session, TimeNs now) {
    session.busy = !session.waiting.empty();
    if (!session.busy) return;
    const std::size_t id = session.waiting.front();
    session.waiting.pop_front();
    (void)policy_.offer({id, load_.requests[id]}, now);
  }

  void refuse(std::size_t id, TimeNs now) {
    if (counted(id)) ++result_.refused;
    tell({.id = id, .outcome = Outcome::refused, .finished = now});
  }

  void start(TimeNs now) {
    const auto batch = policy_.next(now);
    for (const std::uint64_t id : policy_.shed()) {
      if (counted(id)) ++result_.shed;
      tell({.id = id, .outcome = Outcome::shed, .finished = now});
    }
    if (batch.empty()) return;
    running_.assign(batch.begin(), batch.end());
    std::int64_t keys = 0;
    for (const std::uint64_t id : running_) keys += load_.requests[id].keys;
    started_ = now;
    const TimeNs took = device_.run(static_cast<int>(running_.size()), keys);
    free_at_ = now + took;
    busy_ += took;
    ++result_.batches;
    result_.rows += static_cast<std::int64_t>(running_.size());
  }

  void finish(TimeNs now) {
    policy_.finished(now);
    for (const std::uint64_t id : running_) {
      const Request& request = load_.requests[id];
      if (counted(id) && now <= request.deadline) {
        ++result_.in_time;
        latencies_.push_back(now - request.arrived);
      } else if (counted(id)) {
        ++result_.late;
      }
      tell({.id = id, .outcome = Outcome::answered, .started = started_, .finished = now});
    }
    for (const std::uint64_t id : running_)
      if (const int s = load_.requests[id].session; s >= 0)
        ready(sessions_[static_cast<std::size_t>(s)], now);
    running_.clear();
  }

  TimeNs next_event() const {
    TimeNs at = next_ < load_.requests.size() ? load_.requests[next_].arrived : kNever;
    if (!running_.empty()) return std::min(at, free_at_);
    if (const auto wake = policy_.wake()) at = std::min(at, *wake);
    return at;
  }

  void tell(const Answered& answered) const {
    if (on_answer_) on_answer_(answered);
  }

  SimulationResult summarize(TimeNs end) {
    SimulationResult& r = result_;
    const auto share = [](std::int64_t part, std::int64_t whole) {
      return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
    };
    r.goodput_fraction = static_cast<double>(r.in_time) / (load_.seconds * load_.capacity_hz);
    r.miss_rate = share(r.offered - r.in_time, r.offered);
    r.broken_rate = share(r.shed + r.late, r.offered - r.refused);
    r.busy_fraction = share(busy_, end);
    r.p50_ms = quantile_ms(latencies_, 0.5);
    r.p99_ms = quantile_ms(latencies_, 0.99);
    return r;
  }

  const Workload& load_;
  Device device_;
  SchedulingPolicy& policy_;
  const AnswerHook& on_answer_;
  SimulationResult result_;
  std::vector<Session> sessions_;
  std::size_t next_ = 0;  // to arrive
  std::vector<std::uint64_t> running_;
  TimeNs started_ = 0;
  TimeNs free_at_ = 0;
  TimeNs busy_ = 0;
  std::vector<TimeNs> latencies_;
};

}  // namespace

SimulationResult simulate(const Workload& workload, const SimulatedCost& cost, std::uint64_t seed,
                          SchedulingPolicy& policy, const AnswerHook& on_answer) {
  return Simulation(workload, cost, seed, policy, on_answer).run();
}

std::vector<BatchCost> simulated_warm_up(const SimulatedCost& cost, double keys, int max_batch,
                                         std::uint64_t seed) {
  Device device(cost, seed);
  std::vector<BatchCost> measured;
  for (int rows = 1;; rows = std::min(2 * rows, max_batch)) {
    for (const double each : {0.0, 2 * keys}) {
      const auto total = static_cast<std::int64_t>(rows * each);
      for (int i = 0; i < kRepeats; ++i) measured.push_back({rows, total, device.run(rows, total)});
    }
    if (rows == max_batch) return measured;
  }
}

}  // namespace cortex
