#include "scheduler/scheduler.h"

#include <algorithm>
#include <utility>

namespace cortex {
namespace {

// A step counts this share of its session's period: clocks differ, and a rate is not exact.
constexpr double kRateSlack = 0.9;
// Periods by which a session may be ahead of its rate: steps that a network held up come at once.
constexpr double kBurst = 2;
// And no more periods than this are held against it.
constexpr double kMostAhead = 8;
// Share of a session's period from which on its deadline tells of the load: a step that has just
// missed a batch waits for that one and runs in the next.
constexpr double kFairNotice = 0.9;
// Of what is reserved, for so long, may be behind before the door is closed.
constexpr double kMostBehind = 0.02;
constexpr TimeNs kBehindNs = 1'000'000'000;
// However much sessions have reserved, windows get something.
constexpr double kMostReserved = 0.95;

TimeNs scaled(double factor, TimeNs time) {
  return static_cast<TimeNs>(factor * static_cast<double>(time));
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, CostModel cost)
    : options_(options),
      cost_(std::move(cost)),
      tenants_(options.max_tenants, options.tenant_active_ns),
      steps_(options.background_share) {
  const auto windows = static_cast<std::size_t>(options.max_windows);
  const auto streams = static_cast<std::size_t>(options.max_streams);
  windows_.reserve(windows);
  steps_.reserve(streams);
  batch_.reserve(static_cast<std::size_t>(options.max_batch), std::max(windows, streams));
  begun_.reserve(streams, windows);
}

double Scheduler::capacity_hz(int streams, TimeNs period) const {
  // A step that has just missed a batch waits for that one and runs in the next.
  const TimeNs longest = period == kNever ? kNever : period / 2;
  return cost_.rows_hz(std::min(std::max(streams, 1), options_.max_batch), longest);
}

Scheduler::Reservation Scheduler::admit_session(const StepFlow& flow, TimeNs now) {
  Tenants::Tenant& tenant = tenants_[flow.tenant];
  const double fastest = std::max(fastest_hz_, flow.rate_hz);
  Reservation r{.reserved_hz = reserved_hz_};
  if (options_.max_tenant_sessions > 0 && tenant.sessions >= options_.max_tenant_sessions) {
    r.door = Door::too_many_sessions;
    return r;
  }
  const bool is_counted = flow.rate_hz > 0 && !options_.fifo;
  if (is_counted && steps_.behind_hz() > kMostBehind * reserved_hz_ &&
      now - steps_.behind_since() > kBehindNs) {
    r.door = Door::behind;
    r.behind_hz = steps_.behind_hz();
    return r;
  }
  if (is_counted) {
    r.capacity_hz = capacity_hz(sessions_ + 1, static_cast<TimeNs>(1e9 / fastest));
    if (reserved_hz_ + flow.rate_hz > options_.max_utilisation * r.capacity_hz) {
      r.door = Door::over_capacity;
      return r;
    }
    if (tenant.step_rate_hz + flow.rate_hz > options_.max_tenant_utilisation * r.capacity_hz) {
      r.door = Door::over_tenant_share;
      r.reserved_hz = tenant.step_rate_hz;
      return r;
    }
  }
  ++sessions_;
  ++tenant.sessions;
  fastest_hz_ = fastest;
  reserved_hz_ += flow.rate_hz;
  tenant.step_rate_hz += flow.rate_hz;
  return r;
}

void Scheduler::release_session(const StepFlow& flow) {
  steps_.forget(flow);
  Tenants::Tenant& tenant = tenants_[flow.tenant];
  --sessions_;
  --tenant.sessions;
  reserved_hz_ -= flow.rate_hz;
  tenant.step_rate_hz -= flow.rate_hz;
  // Sums of what came and went leave a rounding error behind.
  if (tenant.sessions == 0) tenant.step_rate_hz = 0;
  if (sessions_ == 0) reserved_hz_ = fastest_hz_ = 0;
}

double Scheduler::stretch() const {
  if (reserved_hz_ == 0) return 1;
  const double capacity = capacity_hz(sessions_, static_cast<TimeNs>(1e9 / fastest_hz_));
  return 1 / (1 - std::min(kMostReserved, reserved_hz_ / capacity));
}

TimeNs Scheduler::windows_start(TimeNs now) const {
  const auto keys = static_cast<std::int64_t>(cost_.keys_per_row());
  return free_at(now) + (window_forwards_ > 0 ? window_forwards_ * cost_.predict(1, keys) : 0);
}

Verdict Scheduler::forecast(const Work& work, TimeNs now) const {
  const std::size_t at = windows_.rank(work.due);
  const TimeNs start = windows_start(now);
  const double available = 1.0 / tenants_.active();
  // One that holds nothing may always hold one.
  const bool shared = work.promised && tenants_.active() > 1 && tenants_[work.tenant].windows > 0;
  Forecast with(cost_, options_.max_batch, start, stretch());
  TimeNs own = 0;
  const auto add = [&](const Work& w) {
    const TimeNs before = with.work();
    const bool in_time = with.add(w);
    if (w.tenant == work.tenant) own += with.work() - before;
    return in_time;
  };
  const auto over_share = [&](const Work& w) {
    return shared && w.promised && w.tenant == work.tenant &&
           static_cast<double>(own) > available * static_cast<double>(w.deadline - start);
  };
  for (std::size_t i = 0; i < at; ++i) (void)add(windows_[i]);
  Forecast without = with;
  if (!add(work)) return Verdict::misses;
  if (over_share(work)) return Verdict::tenant_full;
  for (std::size_t i = at; i < windows_.size(); ++i) {
    (void)add(windows_[i]);
    (void)without.add(windows_[i]);
    if (with.misses() > without.misses()) return Verdict::misses;
    if (over_share(windows_[i])) return Verdict::tenant_full;
  }
  return Verdict::taken;
}

TimeNs Scheduler::background_due(std::uint32_t tenant, TimeNs cost, TimeNs now) {
  // A constant-bandwidth server a tenant (Abeni and Buttazzo 1998).
  const double share = options_.background_share / tenants_.active();
  TimeNs& due = tenants_[tenant].background_due;
  due = std::max(due, now) + scaled(1 / share, cost);
  return due;
}

Verdict Scheduler::offer(const WindowOffer& window, TimeNs now) {
  tenants_.touch(window.tenant, now);
  Tenants::Tenant& tenant = tenants_[window.tenant];
  const int most = options_.max_windows;
  if (windows_.size() >= static_cast<std::size_t>(most)) return Verdict::full;
  const int active = tenants_.active();
  if ((active > 1 && tenant.windows >= std::max(1, most / active)) ||
      (options_.max_tenant_windows > 0 && tenant.windows >= options_.max_tenant_windows))
    return Verdict::tenant_full;
  Work work{.key = window.key,
            .arrived = now,
            .deadline = window.deadline,
            .due = window.deadline,
            .keys = window.keys,
            .forwards = window.forwards,
            .tenant = window.tenant,
            .window = true,
            .promised = window.deadline != kNever,
            .sheddable = window.deadline != kNever && !window.best_effort};
  if (options_.fifo) {
    work.due = now;
    work.promised = work.sheddable = false;
    windows_.push(work);
    ++tenant.windows;
    return Verdict::taken;
  }
  const TimeNs alone = window.forwards * cost_.predict(1, window.keys);
  work.interval = scaled(active / options_.background_share, alone);
  if (work.promised) {
    const Verdict verdict = forecast(work, now);
    if (verdict != Verdict::taken && work.sheddable) {
      const bool idle = in_flight_.empty() && windows_.empty() && steps_.empty();
      if (idle && window.deadline > now) cost_.doubt();
      return verdict;
    }
    work.promised = verdict == Verdict::taken;
  }
  if (!work.promised) {
    work.due = background_due(window.tenant, alone, now);
    if (forecast(work, now) != Verdict::taken)
      for (std::size_t i = 0; i < windows_.size(); ++i)
        if (windows_[i].promised) work.due = std::max(work.due, windows_[i].due);
  }
  windows_.push(work);
  ++tenant.windows;
  return Verdict::taken;
}

void Scheduler::push_step(const StepOffer& step, StepFlow& flow) {
  Work work{.key = step.key,
            .arrived = step.arrived,
            .deadline = step.deadline,
            .keys = step.keys,
            .forwards = step.forwards,
            .tenant = flow.tenant};
  if (options_.fifo) {
    work.due = step.arrived;
  } else if (flow.rate_hz == 0) {
    tenants_.touch(flow.tenant, step.arrived);
    const TimeNs alone = step.forwards * cost_.predict(1, step.keys);
    work.due = background_due(flow.tenant, alone, step.arrived);
  } else {
    const auto period = static_cast<TimeNs>(1e9 / flow.rate_hz);
    // Empty steps before this one stand for the time that has passed without any.
    const TimeNs at = step.arrived - (step.forwards - 1) * period;
    // One that is behind sends at once what the device has held up.
    const TimeNs kept = flow.fell > 0 ? at
                                      : std::clamp(flow.next_arrival, at,
                                                   at + scaled(kMostAhead * step.forwards, period));
    flow.next_arrival = kept + scaled(kRateSlack * step.forwards, period);
    const TimeNs ahead = kept - at;
    work.flow = &flow;
    work.fair_notice = static_cast<double>(step.deadline - step.arrived) >=
                       kFairNotice * static_cast<double>(period);
    // What not even an idle device could do is no promise.
    const TimeNs alone = step.forwards * cost_.predict(1, step.keys);
    work.promised = step.deadline != kNever && ahead <= scaled(kBurst, period) &&
                    step.arrived + alone <= step.deadline;
    work.due = work.promised ? step.deadline
                             : std::max(step.deadline == kNever ? 0 : step.deadline,
                                        step.arrived + ahead + step.forwards * period);
  }
  steps_.push(work);
}

const FormedBatch& Scheduler::dispatched(TimeNs now) {
  // The device stood still though there was work: that is part of what work takes.
  if (in_flight_.empty() &&
      std::any_of(batch_.taken.begin(), batch_.taken.end(),
                  [&](const Work& work) { return work.arrived <= finished_; }))
    cost_.paused(now - finished_);
  if (batch_.taken.empty()) return batch_;
  busy_until_ = free_at(now) + batch_.predicted;
  in_flight_.push_back({static_cast<int>(batch_.taken.size()), batch_.keys, now, batch_.predicted});
  return batch_;
}

const FormedBatch& Scheduler::next_windows(TimeNs now) {
  form_batch(windows_, cost_, options_.max_batch, free_at(now), batch_);
  return dispatched(now);
}

const FormedBatch& Scheduler::next_steps(TimeNs now) {
  steps_.form(cost_, options_.max_batch, free_at(now), batch_);
  for (const Work& work : batch_.taken) window_forwards_ -= work.window ? 1 : 0;
  for (const Work& work : batch_.shed) window_forwards_ -= work.window ? work.forwards : 0;
  return dispatched(now);
}

const FormedBatch& Scheduler::begin_windows(int places, TimeNs now) {
  form_batch(windows_, cost_, places, now, begun_);
  for (const Work& work : begun_.taken) window_forwards_ += work.forwards;
  return begun_;
}

void Scheduler::finished(TimeNs now) {
  if (!in_flight_.empty()) {
    // One that was dispatched behind another has had the device since that one was done.
    const Flight done = in_flight_.front();
    cost_.observe({done.rows, done.keys, now - std::max(done.started, finished_)});
    in_flight_.pop_front();
  }
  if (!in_flight_.empty()) busy_until_ = now + in_flight_.front().predicted;
  finished_ = now;
}

}  // namespace cortex
