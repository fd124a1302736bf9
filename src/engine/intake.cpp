#include <fmt/format.h>

#include <algorithm>

#include "cache/stream_state.h"
#include "engine/local_engine.h"
#include "engine/validate.h"

/// Requests are checked, copied and queued on clients' threads.
namespace cortex {
namespace {

Error is_stopping() { return {ErrorCode::unavailable, "the engine is stopping", ""}; }

Error is_recovering(const std::string& device) {
  return {ErrorCode::unavailable, fmt::format("{} failed and is being set up again", device), ""};
}

Error is_lost(SessionId id) {
  return {ErrorCode::unavailable,
          fmt::format("session {} is lost: computing one of its steps failed; open a new one", id),
          "session_id"};
}

}  // namespace

Result<void> LocalEngine::check_tenant(TenantId tenant) const {
  if (tenant < static_cast<TenantId>(options_.max_tenants)) return {};
  return Error{ErrorCode::invalid_argument,
               fmt::format("tenant is {}, not below {}", tenant, options_.max_tenants), "tenant"};
}

Result<void> LocalEngine::submit(const StepRequest& request, StepSink& sink) {
  const std::int64_t now = clock_.now();
  const std::shared_ptr<Session> found = find_session(request.session);
  const auto is_gone = [&] {
    cache_misses_.add();
    return no_session(request.session);
  };
  if (!found) return is_gone();
  Session& session = *found;
  const std::lock_guard intake(session.intake);
  if (session.closed) return is_gone();
  if (request.gap < 0)
    return Error{ErrorCode::invalid_argument, fmt::format("gap is {}, not at least 0", request.gap),
                 "gap"};
  if (request.sequence < 0 || request.sequence > kMaxStep)
    return Error{
        ErrorCode::invalid_argument,
        fmt::format("sequence_number is {}, allowed are 0 to {}", request.sequence, kMaxStep),
        "sequence_number"};
  if (request.sequence - request.gap != session.expected)
    return Error{ErrorCode::out_of_order,
                 fmt::format("sequence_number is {} with a gap of {}, the session expects {} next",
                             request.sequence, request.gap, session.expected),
                 "sequence_number"};
  if (session.full())
    return Error{
        ErrorCode::resource_exhausted,
        fmt::format("{} steps of session {} are waiting already", session.ring.size(), session.id),
        "sequence_number"};
  // The next step to run is done + 1 or later, and sees C steps.
  session.store.release_before(session.done.load(std::memory_order_acquire) + 2 -
                               config_.receptive_steps);
  const auto taken = take_step_events(config_, session.options, session.unit_rows, request.sequence,
                                      request.events, session.store);
  if (!taken) return taken.error();
  StreamJob& job = session.tail_slot();
  job.events = taken->events;
  job.last_step = request.sequence;
  job.forwards = static_cast<int>(std::min<std::int64_t>(request.gap + 1, info_.context_steps));
  job.cursor = 0;
  job.deadline_ns = request.deadline_ns;
  job.best_effort = request.best_effort;
  job.dropped_events = taken->dropped;
  job.submitted_ns = now;
  job.begun = false;
  job.sink = &sink;
  job.window_sink = nullptr;
  bool wakes = false;
  {
    const std::lock_guard lock(calls_mutex_);
    if (stopping_) return is_stopping();
    if (state_ != EngineState::ready) return is_recovering(device_);
    if (session.lost) {
      cache_misses_.add();
      return is_lost(session.id);
    }
    session.push_back();
    if (!session.offered.exchange(true)) offers_.push_back({session.offer(), &session.flow});
    wakes = !called_.exchange(true);
  }
  if (wakes) call_.notify_one();
  session.store.hold(request.sequence, taken->events.size());
  session.expected = request.sequence + 1;
  session.last_active_ns.store(now, std::memory_order_relaxed);
  cache_hits_.add();
  return {};
}

Result<std::uint64_t> LocalEngine::take_window_job() {
  {
    const std::lock_guard lock(queue_mutex_);
    if (stopping_) return is_stopping();
    if (!free_window_jobs_.empty()) {
      const std::uint64_t index = free_window_jobs_.back();
      free_window_jobs_.pop_back();
      return index;
    }
  }
  return Error{ErrorCode::resource_exhausted,
               fmt::format("{} requests are waiting already", options_.max_queued_windows), ""};
}

WindowOffer LocalEngine::offer_of(std::uint64_t index, TenantId tenant) const {
  const WindowJob& job = window_jobs_[index];
  WindowOffer offer{.key = index,
                    .deadline = job.deadline_ns,
                    .keys = static_cast<std::int32_t>(job.events.size()),
                    .tenant = tenant,
                    .best_effort = job.best_effort};
  if (!streams()) return offer;
  const std::int64_t steps = job.events.empty() ? 1 : job.events.back().bin / bins_per_step_ + 1;
  offer.forwards = static_cast<std::int32_t>(std::min<std::int64_t>(steps, info_.context_steps));
  offer.keys /= offer.forwards;
  return offer;
}

Error LocalEngine::refusal(Verdict verdict, const WindowOffer& offer) const {
  if (verdict == Verdict::full)
    return {ErrorCode::resource_exhausted,
            fmt::format("{} requests are waiting already", options_.max_queued_windows), ""};
  if (verdict == Verdict::tenant_full)
    return {ErrorCode::resource_exhausted,
            fmt::format("tenant {} holds its share of the queue, or of the time until the deadline",
                        offer.tenant),
            "tenant"};
  return {ErrorCode::deadline_exceeded,
          "the answer is predicted to come after its deadline, or to make another late",
          "deadline_ms"};
}

Result<void> LocalEngine::submit(const WindowRequest& request, WindowSink& sink) {
  const std::int64_t now = clock_.now();
  if (auto ok = check_tenant(request.tenant); !ok) return ok.error();
  if (auto ok = check_window_events(config_, request.events, options_.max_window_events); !ok)
    return ok.error();
  const auto taken = take_window_job();
  if (!taken) return taken.error();
  WindowJob& job = window_jobs_[*taken];
  job.events.assign(request.events.begin(), request.events.end());
  Result<void> checked;
  if (streams()) {
    job.events.resize(canonicalize(job.events));
    checked = check_step_sizes(config_, job.events);
  }
  job.deadline_ns = request.deadline_ns;
  job.best_effort = request.best_effort;
  job.submitted_ns = now;
  job.sink = &sink;
  const WindowOffer offer = offer_of(*taken, request.tenant);
  Verdict verdict = Verdict::taken;
  {
    const std::lock_guard lock(queue_mutex_);
    if (checked && stopping_) checked = is_stopping();
    if (checked && state_ != EngineState::ready) checked = is_recovering(device_);
    take_offers();
    if (checked) verdict = scheduler_->offer(offer, clock_.now());
    if (!checked || verdict != Verdict::taken) free_window_jobs_.push_back(*taken);
  }
  if (!checked) return checked;
  if (verdict == Verdict::misses) count_.predicted_misses.add();
  if (verdict != Verdict::taken) return refusal(verdict, offer);
  call_compute();
  return {};
}

int LocalEngine::cancel(const WindowSink& sink) {
  const std::lock_guard lock(queue_mutex_);
  const int withdrawn = scheduler_->erase_windows([&](const Work& work) {
    if (window_jobs_[work.key].sink != &sink) return false;
    end_window(work.key, work.tenant);
    return true;
  });
  count_.cancelled.add(withdrawn);
  return withdrawn;
}

EngineStats LocalEngine::stats() const {
  EngineStats s;
  s.batches = count_.batches.value();
  s.batch_rows = count_.batch_rows.value();
  s.busy_ns = count_.busy_ns.value();
  for (std::size_t i = 0; i < s.batch_sizes.size(); ++i)
    s.batch_sizes[i] = count_.batch_sizes[i].value();
  s.failed_batches = count_.failed_batches.value();
  s.recoveries = count_.recoveries.value();
  s.fell_back = fell_back_;
  s.steps = count_.steps.value();
  s.windows = count_.windows.value();
  s.late = count_.late.value();
  s.predicted_misses = count_.predicted_misses.value();
  s.shed = count_.shed.value();
  s.withheld = count_.withheld.value();
  s.refused = s.predicted_misses + s.shed + s.withheld;
  s.cancelled = count_.cancelled.value();
  s.not_finite = count_.not_finite.value();
  s.cache_hits = cache_hits_.value();
  s.cache_misses = cache_misses_.value();
  {
    const std::lock_guard lock(queue_mutex_);
    const Scheduler& scheduler = *scheduler_;
    const CostModel& cost = scheduler.cost();
    s.queue_depth = static_cast<std::int64_t>(scheduler.waiting());
    s.predicted_batch_us =
        static_cast<double>(cost.predict(1, static_cast<std::int64_t>(cost.keys_per_row()))) * 1e-3;
    s.capacity_hz = streams() ? scheduler.capacity_hz(options_.max_sessions,
                                                      static_cast<TimeNs>(config_.step_ms * 1e6))
                              : scheduler.capacity_hz(options_.max_batch, kNever);
    s.reserved_hz = scheduler.reserved_hz();
    s.behind_hz = scheduler.behind_hz();
    if (ops_) s.device_memory_used_bytes = ops_->device_memory_used();
  }
  if (!streams()) return s;
  const std::shared_lock lock(registry_mutex_);
  s.sessions = sessions_->live();
  sessions_->for_each([&](const std::shared_ptr<Session>& session) {
    s.queue_depth += static_cast<std::int64_t>(session->queued.load());
  });
  s.pages_used = sessions_->pages_used();
  s.pages_total = sessions_->pages_total();
  s.cache_bytes = static_cast<std::int64_t>(pool_bytes_);
  return s;
}

}  // namespace cortex
