#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <exception>
#include <iterator>
#include <string_view>

#include "core/realtime.h"
#include "core/thread.h"
#include "engine/local_engine.h"

/// The compute thread. From here to an answer's sink nothing allocates and nothing is waited for
/// but the queue lock, which others hold for microseconds at a time.
namespace cortex {

void LocalEngine::run() {
  name_this_thread("cortex-compute");
  if (options_.realtime)
    realtime_ = make_this_thread_realtime(compute_cores(info_.threads).front());
  while (take_batch()) {
    fail_shed();
    run_batch();
    if (state_ == EngineState::failed)
      return fail_everything({ErrorCode::unavailable, "the engine is stopping", ""});
  }
}

bool LocalEngine::take_batch() {
  std::unique_lock lock(queue_mutex_);
  Scheduler& scheduler = *scheduler_;
  const auto ready = [&] { return scheduler.steps_ready() || scheduler.windows_waiting(); };
  const auto due = [&] { return stopping_ || ready() || ops_->lost(); };
  if (options_.busy_poll_us > 0 && !due()) poll_for_call(lock);
  work_.wait(lock, due);
  batch_sessions_.clear();
  refused_.clear();
  formed_ = nullptr;
  if (ops_->lost()) return true;
  if (!ready()) return false;
  if (streams()) begin_windows();
  started_ns_ = clock_.now();
  formed_ = streams() ? &scheduler.next_steps(started_ns_) : &scheduler.next_windows(started_ns_);
  for (const Work& work : formed_->shed) {
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
  if (!streams()) return true;
  for (const Work& work : formed_->taken) {
    batch_sessions_.push_back(session_of(work.key));
    batch_sessions_.back()->in_flight = true;
  }
  return true;
}

void LocalEngine::call_compute() {
  calls_.fetch_add(1, std::memory_order_release);
  work_.notify_one();
}

void LocalEngine::poll_for_call(std::unique_lock<PriorityMutex>& lock) {
  const std::uint32_t seen = calls_.load(std::memory_order_relaxed);
  lock.unlock();
  const std::int64_t until = clock_.now() + std::int64_t{1000} * options_.busy_poll_us;
  while (calls_.load(std::memory_order_acquire) == seen && clock_.now() < until) relax_cpu();
  lock.lock();
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
    job.events.swap(from.events);
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

void LocalEngine::run_batch() {
  if (formed_ == nullptr) return recover("a forward of another model failed on it");
  if (formed_->taken.empty()) return;
  std::span<const float> behavior;
  try {
    behavior = forward();
  } catch (const DeviceError& failure) {
    const std::string why = failure.what();
    fail_batch(why.c_str());
    recover(why);
    return;
  } catch (const std::exception& failure) {
    fail_batch(failure.what());
    return;
  }
  count_batch();
  if (streams())
    answer_streams(behavior);
  else
    answer_windows(behavior);
}

std::span<const float> LocalEngine::forward() {
  return streams() ? forward_streams() : forward_windows();
}

std::span<const float> LocalEngine::forward_streams() {
  StreamBatch& batch = stream_->batch();
  batch.clear();
  for (Session* session : batch_sessions_) {
    StreamJob& job = session->front();
    if (!job.begun) job.started_ns = started_ns_;
    job.begun = true;
    session->advance(bins_per_step_, info_.context_steps);
    session->append_to(batch, bins_per_step_);
  }
  batch_.forward_ns = clock_.now();
  return stream_->forward();
}

std::span<const float> LocalEngine::forward_windows() {
  window_batch_.clear();
  for (const Work& work : formed_->taken) {
    for (const Event& e : window_jobs_[work.key].events) {
      window_batch_.neuron.push_back(e.unit);
      window_batch_.bin.push_back(static_cast<std::int32_t>(e.bin));
      window_batch_.value.push_back(e.value);
    }
    window_batch_.indptr.push_back(static_cast<std::int32_t>(window_batch_.neuron.size()));
    window_batch_.window_bins.push_back(config_.window_bins > 0 ? config_.window_bins
                                                                : config_.max_bins);
  }
  batch_.forward_ns = clock_.now();
  return window_->forward(window_batch_);
}

void LocalEngine::count_batch() {
  const std::size_t rows = formed_->taken.size();
  batch_.computed_ns = clock_.now();
  batch_.size = static_cast<int>(rows);
  ++batch_.id;
  count_.batches.add();
  count_.batch_rows.add(static_cast<std::int64_t>(rows));
  count_.busy_ns.add(batch_.computed_ns - batch_.forward_ns);
  count_.batch_sizes[static_cast<std::size_t>(std::bit_width(rows - 1))].add();
}

void LocalEngine::answer_streams(std::span<const float> behavior) {
  finished_.clear();
  for (std::size_t i = 0; i < batch_sessions_.size(); ++i) {
    Session& session = *batch_sessions_[i];
    if (session.front_finished()) finished_.push_back({session.front(), &session, i});
  }
  {
    // The slots are free before the answers leave, so that a receiver may queue the next step.
    const std::lock_guard lock(queue_mutex_);
    for (const Finished& job : finished_) job.session->pop_front();
  }
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  for (const Finished& job : finished_) answer(job, behavior.subspan(job.row * outputs, outputs));
  const std::lock_guard lock(queue_mutex_);
  scheduler_->finished(clock_.now());
  let_go();
}

void LocalEngine::let_go() {
  for (std::size_t i = 0; i < batch_sessions_.size(); ++i) {
    Session& session = *batch_sessions_[i];
    session.in_flight = false;
    Work work = formed_->taken[i];
    // What the front job has yet to run, or the job behind it.
    if (session.queued > 0 && session.front().begun) {
      --work.forwards;
      scheduler_->resume(work);
    } else if (session.queued > 0) {
      scheduler_->push_step(session.offer(), session.flow);
    } else if (session.internal) {
      scheduler_->abandon(work);
      end_decode(session, work.tenant);
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

void LocalEngine::answer(const Finished& job, std::span<const float> behavior) {
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
  answer.batch = batch_;
  if (!session.internal) {
    ++session.steps;
    if (answer.status == StepStatus::late) ++session.late;
    if (answer.status == StepStatus::refused) ++session.refused;
    session.dropped_events += job.dropped_events;
    session.last_active_ns = now;
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
  window.batch = batch_;
  window.error = error;
  if (error == nullptr && answer.status == StepStatus::refused) window.error = &too_late_;
  job.window_sink->on_window(window);
}

void LocalEngine::answer_windows(std::span<const float> behavior) {
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  for (std::size_t i = 0; i < formed_->taken.size(); ++i) {
    const Work& work = formed_->taken[i];
    const WindowJob& job = window_jobs_[work.key];
    WindowSink* const sink = job.sink;
    const auto values = behavior.subspan(i * outputs, outputs);
    WindowAnswer answer;
    answer.submitted_ns = job.submitted_ns;
    answer.started_ns = started_ns_;
    answer.batch = batch_;
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

void LocalEngine::fail_batch(const char* why) {
  count_.failed_batches.add();
  text_error_.code = streams() ? ErrorCode::unavailable : ErrorCode::internal;
  text_error_.field.clear();
  text_error_.message.clear();
  fmt::format_to(std::back_inserter(text_error_.message), "{}computing its batch failed: {}",
                 streams() ? "the session is lost: " : "", why);
  for (Session* session : batch_sessions_) {
    {
      const std::lock_guard lock(queue_mutex_);
      session->lost = !session->internal;
    }
    while (fail_front(*session, text_error_)) {
    }
  }
  if (!streams()) {
    for (const Work& work : formed_->taken) {
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
  let_go();
}

}  // namespace cortex
