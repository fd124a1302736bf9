#include <algorithm>

#include "core/realtime.h"
#include "core/thread.h"
#include "engine/local_engine.h"

/// The compute thread. From here to an answer's sink nothing allocates and nothing is waited for
/// but the queue lock, which others hold for a few words at a time.
namespace cortex {

void LocalEngine::run() {
  name_this_thread("cortex-compute");
  if (options_.realtime)
    realtime_ = make_this_thread_realtime(compute_cores(info_.threads).front());
  while (take_batch()) {
    for (const Refusal& r : refusals_) fail_window(*r.sink, r.submitted_ns);
    refusals_.clear();
    if (streams()) {
      run_stream_batch();
    } else {
      run_window_batch();
    }
  }
}

bool LocalEngine::take_batch() {
  std::unique_lock lock(queue_mutex_);
  work_.wait(lock, [&] { return stopping_ || !ready_.empty() || !ready_windows_.empty(); });
  if (ready_.empty() && ready_windows_.empty()) return false;
  if (!streams()) {
    form_batch(ready_windows_, static_cast<std::size_t>(options_.max_batch), batch_keys_);
    return true;
  }
  start_decodes();
  form_batch(ready_, static_cast<std::size_t>(options_.max_batch), batch_keys_);
  batch_sessions_.clear();
  for (const std::uint64_t key : batch_keys_) {
    batch_sessions_.push_back(session_of(key));
    batch_sessions_.back()->in_flight = true;
  }
  return true;
}

void LocalEngine::start_decodes() {
  while (!ready_windows_.empty() && !free_decoders_.empty()) {
    const std::uint64_t index = ready_windows_.pop().key;
    WindowJob& from = window_jobs_[index];
    free_window_jobs_.push_back(index);
    if (!from.best_effort && clock_.now() > from.deadline_ns) {
      refusals_.push_back({from.sink, from.submitted_ns});
      continue;
    }
    Session& session = *free_decoders_.back();
    free_decoders_.pop_back();
    StreamJob& job = session.tail_slot();
    job.events.swap(from.events);
    const std::int64_t last_bin = job.events.empty() ? 0 : job.events.back().bin;
    job.last_step = last_bin / bins_per_step_;
    job.cursor = 0;
    job.deadline_ns = from.deadline_ns;
    job.best_effort = from.best_effort;
    job.submitted_ns = from.submitted_ns;
    job.started_ns = 0;
    job.sink = nullptr;
    job.window_sink = from.sink;
    session.state.restart(0);
    session.push_back();
    ready_.push(job.deadline_ns, key_of(session));
  }
}

void LocalEngine::run_stream_batch() {
  if (batch_sessions_.empty()) return;
  const std::int64_t started = clock_.now();
  StreamBatch& batch = stream_->batch();
  batch.clear();
  for (Session* session : batch_sessions_) {
    if (session->front().started_ns == 0) session->front().started_ns = started;
    session->advance(bins_per_step_, info_.context_steps);
    session->append_to(batch, bins_per_step_);
  }
  const auto behavior = stream_->forward();
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  batches_.add();
  for (std::size_t i = 0; i < batch_sessions_.size(); ++i) {
    Session& session = *batch_sessions_[i];
    if (session.front_finished()) answer_front(session, behavior.subspan(i * outputs, outputs));
  }
  const std::lock_guard lock(queue_mutex_);
  for (Session* session : batch_sessions_) {
    session->in_flight = false;
    if (session->queued > 0) {
      ready_.push(session->front().deadline_ns, key_of(*session));
    } else if (session->internal) {
      free_decoders_.push_back(session);
    }
  }
  idle_.notify_all();
}

void LocalEngine::answer_front(Session& session, std::span<const float> behavior) {
  const std::int64_t now = clock_.now();
  StreamJob& front = session.front();
  const bool in_time = now <= front.deadline_ns;
  StepAnswer answer;
  answer.session = session.id;
  answer.sequence = front.last_step;
  answer.status = in_time             ? StepStatus::fresh
                  : front.best_effort ? StepStatus::late
                                      : StepStatus::refused;
  if (answer.status != StepStatus::refused) answer.behavior = behavior;
  answer.dropped_events = front.dropped_events;
  answer.submitted_ns = front.submitted_ns;
  answer.started_ns = front.started_ns;
  answer.finished_ns = now;
  StepSink* const sink = front.sink;
  WindowSink* const window_sink = front.window_sink;
  if (!session.internal) {
    ++session.steps;
    if (answer.status == StepStatus::late) ++session.late;
    if (answer.status == StepStatus::refused) ++session.refused;
    session.dropped_events += front.dropped_events;
    session.last_active_ns = now;
    session.latency.record(now - front.submitted_ns);
  }
  {
    // The slot is free before the answer leaves, so that its receiver may queue the next step.
    const std::lock_guard lock(queue_mutex_);
    session.pop_front();
  }
  if (answer.status == StepStatus::late) late_.add();
  if (answer.status == StepStatus::refused) refused_.add();
  if (sink) {
    steps_.add();
    sink->on_step(answer);
    return;
  }
  windows_.add();
  WindowAnswer window;
  window.behavior = answer.behavior;
  window.submitted_ns = answer.submitted_ns;
  window.started_ns = answer.started_ns;
  window.finished_ns = now;
  if (answer.status == StepStatus::refused) window.error = &too_late_;
  window_sink->on_window(window);
}

void LocalEngine::fail_window(WindowSink& sink, std::int64_t submitted_ns) {
  refused_.add();
  WindowAnswer answer;
  answer.submitted_ns = submitted_ns;
  answer.finished_ns = clock_.now();
  answer.error = &too_late_;
  sink.on_window(answer);
}

void LocalEngine::run_window_batch() {
  const std::int64_t started = clock_.now();
  window_batch_.clear();
  std::size_t kept = 0;
  for (const std::uint64_t index : batch_keys_) {
    WindowJob& job = window_jobs_[index];
    if (!job.best_effort && started > job.deadline_ns) {
      fail_window(*job.sink, job.submitted_ns);
      const std::lock_guard lock(queue_mutex_);
      free_window_jobs_.push_back(index);
      continue;
    }
    batch_keys_[kept++] = index;
    for (const Event& e : job.events) {
      window_batch_.neuron.push_back(e.unit);
      window_batch_.bin.push_back(static_cast<std::int32_t>(e.bin));
      window_batch_.value.push_back(e.value);
    }
    window_batch_.indptr.push_back(static_cast<std::int32_t>(window_batch_.neuron.size()));
    window_batch_.window_bins.push_back(config_.window_bins > 0 ? config_.window_bins
                                                                : config_.max_bins);
  }
  batch_keys_.resize(kept);
  if (kept == 0) return;
  const auto behavior = window_->forward(window_batch_);
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  batches_.add();
  for (std::size_t i = 0; i < kept; ++i) {
    const WindowJob& job = window_jobs_[batch_keys_[i]];
    WindowAnswer answer;
    answer.submitted_ns = job.submitted_ns;
    answer.started_ns = started;
    answer.finished_ns = clock_.now();
    windows_.add();
    if (answer.finished_ns > job.deadline_ns && !job.best_effort) {
      refused_.add();
      answer.error = &too_late_;
    } else {
      if (answer.finished_ns > job.deadline_ns) late_.add();
      answer.behavior = behavior.subspan(i * outputs, outputs);
    }
    job.sink->on_window(answer);
    const std::lock_guard lock(queue_mutex_);
    free_window_jobs_.push_back(batch_keys_[i]);
  }
}

}  // namespace cortex
