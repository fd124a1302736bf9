#include <fmt/format.h>

#include <algorithm>

#include "engine/local_engine.h"
#include "engine/validate.h"

/// Sessions come and go; all of it on clients' threads.
namespace cortex {

Result<SessionInfo> LocalEngine::open_session(const SessionOptions& options) {
  if (!streams())
    return Error{ErrorCode::unsupported,
                 fmt::format("{} is a window model: it keeps no sessions", info_.path), "session"};
  if (options.first_step < 0 || options.first_step > kMaxStep)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("first_step is {}, allowed are 0 to {}", options.first_step, kMaxStep),
                 "first_step"};
  if (auto ok = check_tenant(options.tenant); !ok) return ok.error();
  if (!(options.step_rate_hz >= 0 && options.step_rate_hz <= kMaxStepRateHz))
    return Error{ErrorCode::invalid_argument,
                 fmt::format("step_rate_hz is {}, allowed are 0 to {:g}", options.step_rate_hz,
                             kMaxStepRateHz),
                 "step_rate_hz"};
  if (state_ == EngineState::recovering)
    return Error{ErrorCode::unavailable,
                 fmt::format("{} failed and is being set up again", device_), ""};
  auto rows = match_units(config_, options);
  if (!rows) return rows.error();
  const auto session =
      std::make_shared<Session>(SessionId{0}, config_, options, options_.max_queued_steps,
                                static_cast<std::size_t>(config_.max_events_per_step));
  session->unit_rows = *std::move(rows);
  session->last_active_ns = clock_.now();
  session->flow.tenant = options.tenant;
  if (!options.best_effort)
    session->flow.rate_hz = options.step_rate_hz > 0 ? options.step_rate_hz : 1e3 / config_.step_ms;

  const std::lock_guard lock(registry_mutex_);
  auto opened = sessions_->open();
  if (!opened) {
    Error e = opened.error();
    e.message = fmt::format("all {} sessions are taken ({})", options_.max_sessions, e.message);
    return e;
  }
  if (auto ok = admit(*session); !ok) {
    (void)sessions_->close(opened->id);
    (void)sessions_->release(opened->id);
    return ok.error();
  }
  session->id = opened->id;
  session->pages = std::move(opened->pages);
  *sessions_->find(opened->id) = session;
  return SessionInfo{session->id, options.first_step, session->flow.rate_hz};
}

Result<void> LocalEngine::admit(const Session& session) {
  const StepFlow& flow = session.flow;
  Scheduler::Reservation r;
  {
    const std::lock_guard lock(queue_mutex_);
    r = scheduler_->admit_session(flow, clock_.now());
  }
  const auto over = [&](const char* whose, double share, const char* field) {
    return Error{ErrorCode::resource_exhausted,
                 fmt::format("{:.6g} steps/s do not fit: {} reserve {:.6g} of a predicted capacity "
                             "of {:.6g} steps/s, and at most {:g}% of it may be",
                             flow.rate_hz, whose, r.reserved_hz, r.capacity_hz, 100 * share),
                 field};
  };
  switch (r.door) {
    case Scheduler::Door::open:
      return {};
    case Scheduler::Door::over_capacity:
      return over("open sessions", options_.max_utilisation, "step_rate_hz");
    case Scheduler::Door::behind:
      return Error{ErrorCode::resource_exhausted,
                   fmt::format("{:.6g} steps/s do not fit: the engine does not keep up with {:.6g} "
                               "of the {:.6g} steps/s that open sessions reserve",
                               flow.rate_hz, r.behind_hz, r.reserved_hz),
                   "step_rate_hz"};
    case Scheduler::Door::over_tenant_share:
      return over("its tenant's sessions", options_.max_tenant_utilisation, "tenant");
    case Scheduler::Door::too_many_sessions:
      break;
  }
  return Error{ErrorCode::resource_exhausted,
               fmt::format("tenant {} has {} sessions open, its most", flow.tenant,
                           options_.max_tenant_sessions),
               "tenant"};
}

std::shared_ptr<Session> LocalEngine::find_session(SessionId id) {
  if (!streams()) return nullptr;
  const std::shared_lock lock(registry_mutex_);
  const auto* const found = sessions_->find(id);
  return found != nullptr ? *found : nullptr;
}

Result<SessionSummary> LocalEngine::close_session(SessionId id) {
  std::shared_ptr<Session> session;
  if (streams()) {
    const std::lock_guard lock(registry_mutex_);
    if (const auto* const found = sessions_->find(id)) session = *found;
    if (session) (void)sessions_->close(id);
  }
  if (!session) return no_session(id);
  {
    const std::lock_guard intake(session->intake);
    session->closed = true;
  }
  return finish_closing(*session);
}

SessionSummary LocalEngine::finish_closing(Session& session) {
  std::vector<JobTerms> dropped;
  dropped.reserve(session.ring.size());
  const auto drop = [&] { dropped.push_back(session.pop_back()); };
  {
    // Its waiting steps go with it; one that is being computed is answered first, unless it has
    // empty steps yet to run.
    std::unique_lock lock(queue_mutex_);
    while (session.queued > (session.in_flight ? 1U : 0U)) drop();
    idle_.wait(lock, [&] { return !session.in_flight; });
    while (session.queued > 0) drop();
    take_offers();
    scheduler_->erase_step(key_of(session));
    scheduler_->release_session(session.flow);
  }
  {
    const std::lock_guard lock(registry_mutex_);
    (void)sessions_->release(session.id);
  }
  const Error error = {ErrorCode::unavailable, "the session was closed before this step ran",
                       "session_id"};
  for (auto job = dropped.rbegin(); job != dropped.rend(); ++job) {
    StepAnswer answer;
    answer.session = session.id;
    answer.sequence = job->last_step;
    answer.submitted_ns = job->submitted_ns;
    answer.finished_ns = clock_.now();
    answer.error = &error;
    job->sink->on_step(answer);
  }
  SessionSummary s;
  s.steps = session.steps;
  s.late = session.late;
  s.refused = session.refused;
  s.dropped_events = session.dropped_events;
  s.p50_us = static_cast<double>(session.latency.quantile_ns(0.5)) * 1e-3;
  s.p99_us = static_cast<double>(session.latency.quantile_ns(0.99)) * 1e-3;
  s.p999_us = static_cast<double>(session.latency.quantile_ns(0.999)) * 1e-3;
  s.max_us = static_cast<double>(session.latency.max_ns()) * 1e-3;
  return s;
}

int LocalEngine::expire_idle_sessions() {
  call_compute();  // it may have to see that its device is lost
  if (!streams()) return 0;
  const auto timeout = static_cast<std::int64_t>(options_.idle_timeout_s * 1e9);
  const std::int64_t now = clock_.now();
  std::vector<std::shared_ptr<Session>> expired;
  {
    const std::lock_guard lock(registry_mutex_);
    (void)sessions_->close_if([&](const std::shared_ptr<Session>& session) {
      // No step can come between the look and the closing.
      const std::lock_guard intake(session->intake);
      if (session->queued > 0 || now - session->last_active_ns <= timeout) return false;
      session->closed = true;
      expired.push_back(session);
      return true;
    });
  }
  for (const auto& session : expired) (void)finish_closing(*session);
  return static_cast<int>(expired.size());
}

}  // namespace cortex
