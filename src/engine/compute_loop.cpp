#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <exception>
#include <iterator>
#include <string_view>
#include <utility>

#include "core/realtime.h"
#include "core/thread.h"
#include "engine/local_engine.h"

/// The compute thread. From here to an answer's sink nothing allocates and nothing is waited for
/// but the queue lock and that of the offers, which others hold for microseconds at a time.
namespace cortex {
namespace {

// By how many rows of a batch memory is fetched ahead of its use, for each turn that it takes.
constexpr std::size_t kAhead = 4;

template <class Body>
std::optional<ComputeFailure> attempt(Body body) {
  try {
    body();
    return {};
  } catch (const DeviceError& failure) {
    return ComputeFailure{failure.what(), true};
  } catch (const std::exception& failure) {
    return ComputeFailure{failure.what(), false};
  }
}

}  // namespace

void LocalEngine::run() {
  name_this_thread("cortex-compute");
  if (options_.realtime)
    realtime_ = make_this_thread_realtime(compute_cores(info_.threads).front());
  while (take_batch()) {
    fail_shed();
    run_batches();
    if (state_ == EngineState::failed)
      return fail_everything({ErrorCode::unavailable, "the engine is stopping", ""});
  }
}

bool LocalEngine::take_batch() {
  std::unique_lock lock(queue_mutex_);
  Scheduler& scheduler = *scheduler_;
  const auto ready = [&] { return scheduler.steps_ready() || scheduler.windows_waiting(); };
  take_offers();
  while (running_ == nullptr && !stopping_ && !ready() && !ops_->lost()) {
    lock.unlock();
    await_call();
    lock.lock();
    take_offers();
  }
  refused_.clear();
  next_ = nullptr;
  lost_ = ops_->lost();
  if (lost_) return true;
  if (running_ != nullptr && !is_worth_a_flight()) return true;
  if (!ready()) return false;
  if (streams()) begin_windows();
  Flight& flight = flights_[running_ == &flights_[0] ? 1 : 0];
  flight.started_ns = clock_.now();
  const FormedBatch& formed = streams() ? scheduler.next_steps(flight.started_ns)
                                        : scheduler.next_windows(flight.started_ns);
  for (const Work& work : formed.shed) {
    if (streams()) {
      Session& session = *session_of(work.key);
      refused_.push_back({session.front().window_sink, session.front().submitted_ns});
      session.pop_front();
      end_decode(session, work.tenant);
    } else {
      const WindowJob& job = window_jobs_[work.key];
      refused_.push_back({job.sink, job.submitted_ns});
      end_window(work.key, work.tenant);
    }
  }
  if (formed.taken.empty()) return true;
  next_ = &flight;
  flight.taken.assign(formed.taken.begin(), formed.taken.end());
  flight.sessions.clear();
  if (!streams()) return true;
  for (const Work& work : flight.taken) {
    flight.sessions.push_back(session_of(work.key));
    flight.sessions.back()->in_flight = true;
  }
  return true;
}

bool LocalEngine::is_worth_a_flight() const {
  return !stopping_ && 2 * scheduler_->ready_steps() >= running_->taken.size();
}

void LocalEngine::take_offers() {
  {
    const std::lock_guard lock(calls_mutex_);
    offers_.swap(taken_offers_);
  }
  for (std::size_t i = 0; i < taken_offers_.size(); ++i) {
    if (i + kAhead < taken_offers_.size()) {
      const StepFlow* const flow = taken_offers_[i + kAhead].flow;
      prefetch_lines(flow, flow + 1);
    }
    scheduler_->push_step(taken_offers_[i].step, *taken_offers_[i].flow);
  }
  taken_offers_.clear();
}

void LocalEngine::call_compute() {
  {
    const std::lock_guard lock(calls_mutex_);
    called_ = true;
  }
  call_.notify_one();
}

void LocalEngine::await_call() {
  if (options_.busy_poll_us > 0) {
    const std::int64_t until = clock_.now() + std::int64_t{1000} * options_.busy_poll_us;
    while (!called_.load(std::memory_order_acquire) && clock_.now() < until) relax_cpu();
  }
  std::unique_lock lock(calls_mutex_);
  call_.wait(lock, [&] { return called_.load(std::memory_order_relaxed); });
  called_ = false;
}

void LocalEngine::begin_windows() {
  if (free_decoders_.empty() || !scheduler_->windows_waiting()) return;
  const FormedBatch& begun =
      scheduler_->begin_windows(static_cast<int>(free_decoders_.size()), clock_.now());
  for (const Work& work : begun.shed) {
    const WindowJob& job = window_jobs_[work.key];
    refused_.push_back({job.sink, job.submitted_ns});
    end_window(work.key, work.tenant);
  }
  for (Work work : begun.taken) {
    WindowJob& from = window_jobs_[work.key];
    Session& session = *free_decoders_.back();
    free_decoders_.pop_back();
    StreamJob& job = session.tail_slot();
    session.window_events.swap(from.events);
    job.events = session.window_events;
    const std::int64_t last_bin = job.events.empty() ? 0 : job.events.back().bin;
    job.last_step = last_bin / bins_per_step_;
    job.forwards = work.forwards;
    job.cursor = 0;
    job.deadline_ns = from.deadline_ns;
    job.best_effort = from.best_effort;
    job.submitted_ns = from.submitted_ns;
    job.begun = false;
    job.sink = nullptr;
    job.window_sink = from.sink;
    session.state.restart(0);
    session.push_back();
    free_window_jobs_.push_back(work.key);
    work.key = key_of(session);
    scheduler_->resume(work);
  }
}

void LocalEngine::end_window(std::uint64_t index, std::uint32_t tenant) {
  free_window_jobs_.push_back(index);
  scheduler_->release_window(tenant);
}

void LocalEngine::end_decode(Session& session, std::uint32_t tenant) {
  free_decoders_.push_back(&session);
  scheduler_->release_window(tenant);
}

void LocalEngine::fail_shed() {
  for (const Refused& r : refused_) {
    count_.shed.add();
    fail_window(*r.sink, r.submitted_ns, too_late_);
  }
}

void LocalEngine::fail_window(WindowSink& sink, std::int64_t submitted_ns, const Error& error) {
  WindowAnswer answer;
  answer.submitted_ns = submitted_ns;
  answer.finished_ns = clock_.now();
  answer.error = &error;
  sink.on_window(answer);
}

void LocalEngine::run_batches() {
  Flight* const before = std::exchange(running_, nullptr);
  std::optional<ComputeFailure> met, met_before;
  if (next_ != nullptr) met = attempt([&] { launch(*next_); });
  if (before != nullptr) met_before = end_batch(*before, {});
  // What was launched behind a batch is lost with the device.
  const bool is_lost = lost_ || (met_before && met_before->of_device);
  if (is_lost && !met) met = met_before;
  const bool stays = next_ != nullptr && !met && !is_lost && streams() && stream_->lanes() > 1;
  if (stays)
    running_ = next_;
  else if (next_ != nullptr)
    met = end_batch(*next_, std::move(met));
  if (lost_) return recover("a forward of another model failed on it");
  if (is_lost) return recover(met_before->why);
  if (met && met->of_device) recover(met->why);
}

void LocalEngine::launch(Flight& flight) {
  if (!streams()) {
    pack_windows(flight);
    flight.info.forward_ns = clock_.now();
    return;
  }
  flight.lane = static_cast<int>(&flight - flights_.data());
  StreamBatch& batch = stream_->batch(flight.lane);
  batch.clear();
  const auto& sessions = flight.sessions;
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    if (i + 3 * kAhead < sessions.size()) sessions[i + 3 * kAhead]->prefetch();
    if (i + 2 * kAhead < sessions.size()) sessions[i + 2 * kAhead]->prefetch_job();
    if (i + kAhead < sessions.size()) sessions[i + kAhead]->prefetch_events();
    StreamJob& job = sessions[i]->front();
    if (!job.begun) job.started_ns = flight.started_ns;
    job.begun = true;
    sessions[i]->advance(bins_per_step_, info_.context_steps);
    sessions[i]->append_to(batch, bins_per_step_);
  }
  flight.info.forward_ns = clock_.now();
  stream_->launch(flight.lane);
}

void LocalEngine::pack_windows(const Flight& flight) {
  const auto events_of = [this](const Work& work) -> const auto& {
    return window_jobs_[work.key].events;
  };
  std::size_t events = 0;
  for (const Work& work : flight.taken) events += events_of(work).size();
  WindowBatch& batch = window_->begin_batch(static_cast<int>(flight.taken.size()),
                                            static_cast<std::int64_t>(events));
  for (const Work& work : flight.taken) batch.add_window(events_of(work), config_.nominal_bins());
}

std::optional<ComputeFailure> LocalEngine::end_batch(Flight& flight,
                                                     std::optional<ComputeFailure> failure) {
  std::span<const float> behavior;
  if (!failure)
    failure =
        attempt([&] { behavior = streams() ? stream_->finish(flight.lane) : window_->forward(); });
  if (failure) {
    fail_batch(flight, failure->why.c_str());
    return failure;
  }
  count_batch(flight);
  if (streams())
    answer_streams(flight, behavior);
  else
    answer_windows(flight, behavior);
  return {};
}

void LocalEngine::count_batch(Flight& flight) {
  const std::size_t rows = flight.taken.size();
  flight.info.computed_ns = clock_.now();
  flight.info.size = static_cast<int>(rows);
  flight.info.id = ++batches_;
  count_.batches.add();
  count_.batch_rows.add(static_cast<std::int64_t>(rows));
  // One that was launched behind another has had the device since that one was done.
  count_.busy_ns.add(flight.info.computed_ns - std::max(flight.info.forward_ns, computed_ns_));
  computed_ns_ = flight.info.computed_ns;
  count_.batch_sizes[static_cast<std::size_t>(std::bit_width(rows - 1))].add();
}

void LocalEngine::answer_streams(const Flight& flight, std::span<const float> behavior) {
  finished_.clear();
  const auto& sessions = flight.sessions;
  for (std::size_t i = 0; i < sessions.size(); ++i) {
    if (i + 2 * kAhead < sessions.size()) sessions[i + 2 * kAhead]->prefetch();
    if (i + kAhead < sessions.size()) sessions[i + kAhead]->prefetch_job();
    Session& session = *sessions[i];
    if (session.front_finished()) finished_.push_back({session.front(), &session, i});
  }
  {
    // The slots are free before the answers leave, so that a receiver may queue the next step.
    const std::lock_guard lock(queue_mutex_);
    for (const Finished& job : finished_) job.session->pop_front();
  }
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  for (std::size_t i = 0; i < finished_.size(); ++i) {
    if (i + kAhead < finished_.size()) {
      const StepSink* const sink = finished_[i + kAhead].sink;
      prefetch_lines(sink, sink + 1);
    }
    const Finished& job = finished_[i];
    answer(job, flight.info, behavior.subspan(job.row * outputs, outputs));
  }
  if (options_.on_batch_answered) options_.on_batch_answered();
  const std::lock_guard lock(queue_mutex_);
  scheduler_->finished(clock_.now());
  let_go(flight);
}

void LocalEngine::let_go(const Flight& flight) {
  for (std::size_t i = 0; i < flight.sessions.size(); ++i) {
    Session& session = *flight.sessions[i];
    session.in_flight = false;
    Work work = flight.taken[i];
    // What the front job has yet to run, or the job behind it.
    if (session.queued > 0 && session.front().begun) {
      --work.forwards;
      scheduler_->resume(work);
    } else if (session.internal) {
      scheduler_->abandon(work);
      end_decode(session, work.tenant);
    } else if (session.stays_offered()) {
      scheduler_->push_step(session.offer(), session.flow);
    }
  }
  idle_.notify_all();
}

const Error* LocalEngine::not_finite(std::span<const float> behavior, const Finished* job) {
  const auto bad = std::find_if_not(behavior.begin(), behavior.end(),
                                    [](float value) { return std::isfinite(value); });
  if (bad == behavior.end()) return nullptr;
  count_.not_finite.add();
  const auto output = static_cast<std::size_t>(bad - behavior.begin());
  text_error_.code = ErrorCode::internal;
  text_error_.field = "behavior";
  text_error_.message.clear();
  const auto text = std::back_inserter(text_error_.message);
  // Cut: the text has room for so much.
  const std::string_view name = std::string_view(config_.output_names[output]).substr(0, 64);
  if (job != nullptr && !job->session->internal)
    fmt::format_to(text, "output {} of step {} of session {} is {}", name, job->last_step,
                   job->session->id, *bad);
  else
    fmt::format_to(text, "output {} of the window is {}", name, *bad);
  return &text_error_;
}

void LocalEngine::answer(const Finished& job, const BatchInfo& batch,
                         std::span<const float> behavior) {
  Session& session = *job.session;
  const Error* const error = not_finite(behavior, &job);
  const std::int64_t now = clock_.now();
  const bool in_time = now <= job.deadline_ns;
  StepAnswer answer;
  answer.session = session.id;
  answer.sequence = job.last_step;
  answer.status = in_time           ? StepStatus::fresh
                  : job.best_effort ? StepStatus::late
                                    : StepStatus::refused;
  answer.error = error;
  if (error == nullptr && answer.status != StepStatus::refused) answer.behavior = behavior;
  answer.dropped_events = job.dropped_events;
  answer.submitted_ns = job.submitted_ns;
  answer.started_ns = job.started_ns;
  answer.finished_ns = now;
  answer.batch = batch;
  if (!session.internal) {
    ++session.steps;
    if (answer.status == StepStatus::late) ++session.late;
    if (answer.status == StepStatus::refused) ++session.refused;
    session.dropped_events += job.dropped_events;
    session.last_active_ns.store(now, std::memory_order_relaxed);
    session.latency.record(now - job.submitted_ns);
  }
  if (answer.status == StepStatus::late) count_.late.add();
  if (answer.status == StepStatus::refused) count_.withheld.add();
  if (job.sink) {
    count_.steps.add();
    job.sink->on_step(answer);
    return;
  }
  count_.windows.add();
  WindowAnswer window;
  window.behavior = answer.behavior;
  window.submitted_ns = answer.submitted_ns;
  window.started_ns = answer.started_ns;
  window.finished_ns = now;
  window.batch = batch;
  window.error = error;
  if (error == nullptr && answer.status == StepStatus::refused) window.error = &too_late_;
  job.window_sink->on_window(window);
}

void LocalEngine::answer_windows(const Flight& flight, std::span<const float> behavior) {
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  for (std::size_t i = 0; i < flight.taken.size(); ++i) {
    const Work& work = flight.taken[i];
    const WindowJob& job = window_jobs_[work.key];
    WindowSink* const sink = job.sink;
    const auto values = behavior.subspan(i * outputs, outputs);
    WindowAnswer answer;
    answer.submitted_ns = job.submitted_ns;
    answer.started_ns = flight.started_ns;
    answer.batch = flight.info;
    answer.error = not_finite(values, nullptr);
    answer.finished_ns = clock_.now();
    const bool late = answer.finished_ns > job.deadline_ns;
    if (late) (job.best_effort ? count_.late : count_.withheld).add();
    if (late && !job.best_effort && answer.error == nullptr) answer.error = &too_late_;
    if (answer.error == nullptr) answer.behavior = values;
    count_.windows.add();
    {
      // As with a step: what it held of its tenant's share is free when its receiver asks again.
      const std::lock_guard lock(queue_mutex_);
      end_window(work.key, work.tenant);
    }
    sink->on_window(answer);
  }
  if (options_.on_batch_answered) options_.on_batch_answered();
  const std::lock_guard lock(queue_mutex_);
  scheduler_->finished(clock_.now());
}

bool LocalEngine::fail_front(Session& session, const Error& error) {
  JobTerms job;
  {
    // Whoever closes the session takes out others of its jobs.
    const std::lock_guard lock(queue_mutex_);
    if (session.queued == 0) return false;
    job = session.front();
    session.pop_front();
  }
  if (job.sink == nullptr) {
    fail_window(*job.window_sink, job.submitted_ns, error);
    return true;
  }
  StepAnswer answer;
  answer.session = session.id;
  answer.sequence = job.last_step;
  answer.submitted_ns = job.submitted_ns;
  answer.finished_ns = clock_.now();
  answer.error = &error;
  job.sink->on_step(answer);
  return true;
}

void LocalEngine::fail_batch(const Flight& flight, const char* why) {
  count_.failed_batches.add();
  text_error_.code = streams() ? ErrorCode::unavailable : ErrorCode::internal;
  text_error_.field.clear();
  text_error_.message.clear();
  fmt::format_to(std::back_inserter(text_error_.message), "{}computing its batch failed: {}",
                 streams() ? "the session is lost: " : "", why);
  for (Session* session : flight.sessions) {
    {
      const std::lock_guard lock(calls_mutex_);
      session->lost = !session->internal;
    }
    while (fail_front(*session, text_error_)) {
    }
  }
  if (!streams()) {
    for (const Work& work : flight.taken) {
      const WindowJob& job = window_jobs_[work.key];
      WindowSink& sink = *job.sink;
      const std::int64_t submitted_ns = job.submitted_ns;
      {
        const std::lock_guard lock(queue_mutex_);
        end_window(work.key, work.tenant);
      }
      fail_window(sink, submitted_ns, text_error_);
    }
  }
  const std::lock_guard lock(queue_mutex_);
  scheduler_->failed();
  let_go(flight);
}

}  // namespace cortex
