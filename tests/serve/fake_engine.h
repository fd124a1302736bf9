#pragma once

#include <cortex/engine.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/clock.h"

/// An engine whose model costs nothing, with the promises of the real one: its own compute thread,
/// bounded queues, sessions that remember. output 0 of a step is its spikes, output 1 a leaky sum
/// over all steps so far (so that a lost or doubled step shows); a window's are its spikes and the
/// sum of its bins.
namespace cortex::testing {

struct FakeOptions {
  bool window = false;
  std::string name = "fake";  ///< the model's preset
  float scale = 1;            ///< of output 0, to tell two engines apart
  int units = 16;
  int max_sessions = 4;
  int max_queued_steps = 4;
  int max_queued_windows = 8;
  int max_events = 64;
  std::vector<RealtimeGrant> realtime = {};
};

class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(const FakeOptions& options = {}) : options_(options) {
    model_.kind = options.window ? "window" : "stream";
    model_.preset = options.name;
    model_.precision = "fp32";
    model_.digest = "00000000deadbeef";
    model_.parameters = 2;
    model_.outputs = {{"vel_x", "mm/s"}, {"vel_y", "mm/s"}};
    model_.bin_ms = 5;
    model_.max_events = options.max_events;
    if (options.window) {
      model_.max_bins = 100;
      model_.max_neurons = options.units;
    } else {
      for (int i = 0; i < options.units; ++i) model_.unit_ids.push_back("u" + std::to_string(i));
      model_.step_ms = 20;
      model_.bins_per_step = 4;
      model_.window_steps = 50;
      model_.context_steps = 50;
    }
    thread_ = std::thread([this] { compute(); });
  }
  ~FakeEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      held_ = false;
    }
    changed_.notify_all();
    thread_.join();
  }

  const ModelInfo& model() const override { return model_; }

  Result<SessionInfo> open_session(const SessionOptions& options) override {
    const std::lock_guard lock(mutex_);
    if (static_cast<int>(sessions_.size()) >= options_.max_sessions)
      return Error{ErrorCode::resource_exhausted, "no cache pages are left for a session",
                   "sessions"};
    for (const std::string& id : options.unit_ids)
      if (std::find(model_.unit_ids.begin(), model_.unit_ids.end(), id) == model_.unit_ids.end())
        return Error{ErrorCode::invalid_argument, "the model has no unit " + id, "units"};
    last_options_ = options;
    Session session;
    session.next = options.first_step;
    session.drop = options.drop_out_of_step;
    sessions_[++last_id_] = session;
    const double rate = options.step_rate_hz > 0 ? options.step_rate_hz : 50;
    return SessionInfo{last_id_, options.first_step, options.best_effort ? 0 : rate};
  }

  Result<SessionSummary> close_session(SessionId id) override {
    std::vector<Job> dropped;
    SessionSummary summary;
    {
      const std::lock_guard lock(mutex_);
      const auto it = sessions_.find(id);
      if (it == sessions_.end()) return Error{ErrorCode::not_found, "no such session", "session"};
      summary = it->second.summary;
      sessions_.erase(it);
      dropped = take_jobs(id);
    }
    fail(dropped);
    return summary;
  }

  Result<void> submit(const StepRequest& r, StepSink& sink) override {
    const std::lock_guard lock(mutex_);
    const auto it = sessions_.find(r.session);
    ++(it == sessions_.end() ? stats_.cache_misses : stats_.cache_hits);
    if (it == sessions_.end()) return Error{ErrorCode::not_found, "no such session", "session"};
    Session& session = it->second;
    if (r.sequence != session.next + r.gap)
      return Error{ErrorCode::out_of_order, "not the next step", "sequence"};
    if (session.queued >= options_.max_queued_steps)
      return Error{ErrorCode::resource_exhausted, "too many steps are queued", ""};
    Job job{.session = r.session,
            .sequence = r.sequence,
            .gap = r.gap,
            .events = {r.events.begin(), r.events.end()},
            .deadline_ns = r.deadline_ns,
            .best_effort = r.best_effort,
            .step = &sink,
            .submitted_ns = now()};
    if (session.drop) {
      const std::int64_t k = model_.bins_per_step;
      job.dropped = static_cast<std::int64_t>(
          std::erase_if(job.events, [&](const Event& e) { return e.bin / k != r.sequence; }));
      session.summary.dropped_events += job.dropped;
    }
    session.next = r.sequence + 1;
    ++session.queued;
    jobs_.push_back(std::move(job));
    changed_.notify_all();
    return {};
  }

  Result<void> submit(const WindowRequest& r, WindowSink& sink) override {
    const std::lock_guard lock(mutex_);
    if (static_cast<int>(jobs_.size()) >= options_.max_queued_windows)
      return Error{ErrorCode::resource_exhausted, "too many windows are queued", ""};
    jobs_.push_back(Job{.events = {r.events.begin(), r.events.end()},
                        .deadline_ns = r.deadline_ns,
                        .best_effort = r.best_effort,
                        .tenant = r.tenant,
                        .window = &sink,
                        .submitted_ns = now()});
    changed_.notify_all();
    return {};
  }

  int cancel(const WindowSink& sink) override {
    const std::lock_guard lock(mutex_);
    const auto n = std::erase_if(jobs_, [&](const Job& job) { return job.window == &sink; });
    stats_.cancelled += static_cast<std::int64_t>(n);
    return static_cast<int>(n);
  }

  EngineState state() const override {
    const std::lock_guard lock(mutex_);
    return state_;
  }

  int expire_idle_sessions() override {
    const std::lock_guard lock(mutex_);
    const int n = expire_now_ ? static_cast<int>(sessions_.size()) : 0;
    if (expire_now_) sessions_.clear();
    expire_now_ = false;
    return n;
  }

  EngineStats stats() const override {
    const std::lock_guard lock(mutex_);
    EngineStats s = stats_;
    s.sessions = static_cast<std::int64_t>(sessions_.size());
    s.pages_used = s.sessions * 4;
    s.pages_total = options_.max_sessions * 4;
    s.queue_depth = static_cast<std::int64_t>(jobs_.size());
    return s;
  }

  std::span<const RealtimeGrant> realtime() const override { return options_.realtime; }

  // What tests do to it.

  /// Nothing is computed until release().
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  /// It runs on a GPU of which so much memory is in use.
  void pretend_gpu(std::int64_t used_bytes) {
    const std::lock_guard lock(mutex_);
    stats_.device_memory_used_bytes = used_bytes;
  }
  void set_state(EngineState state) {
    const std::lock_guard lock(mutex_);
    state_ = state;
  }
  /// The next answer's first output is not a number.
  void lose_finiteness() {
    const std::lock_guard lock(mutex_);
    not_finite_ = true;
  }
  /// The next answer is in time by the engine's own clock, and leaves it after its deadline.
  void dawdle() {
    const std::lock_guard lock(mutex_);
    dawdles_ = true;
  }
  /// What the last session was opened with, and whose the windows were.
  SessionOptions last_options() const {
    const std::lock_guard lock(mutex_);
    return last_options_;
  }
  std::vector<TenantId> window_tenants() const {
    const std::lock_guard lock(mutex_);
    return window_tenants_;
  }
  /// The next expiry takes every session.
  void expire_all() {
    const std::lock_guard lock(mutex_);
    expire_now_ = true;
  }
  /// Sessions vanish with their queued work, whose sinks hear of it.
  void lose_sessions() {
    std::vector<Job> dropped;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [id, session] : sessions_)
        for (Job& job : take_jobs(id)) dropped.push_back(std::move(job));
      sessions_.clear();
    }
    fail(dropped);
  }

 private:
  struct Session {
    std::int64_t next = 0;
    int queued = 0;
    bool drop = false;
    float leaky = 0;
    SessionSummary summary;
  };
  struct Job {
    SessionId session = 0;
    std::int64_t sequence = 0;
    std::int64_t gap = 0;
    std::vector<Event> events;
    std::int64_t deadline_ns = kNoDeadline;
    bool best_effort = false;
    TenantId tenant = 0;
    StepSink* step = nullptr;
    WindowSink* window = nullptr;
    std::int64_t submitted_ns = 0;
    std::int64_t dropped = 0;
  };

  static std::int64_t now() { return RealClock::instance().now(); }

  std::vector<Job> take_jobs(SessionId id) {
    std::vector<Job> taken;
    std::deque<Job> kept;
    for (Job& job : jobs_)
      (job.step != nullptr && job.session == id ? taken.emplace_back() : kept.emplace_back()) =
          std::move(job);
    jobs_ = std::move(kept);
    return taken;
  }
  static void fail(const std::vector<Job>& jobs) {
    const Error error{ErrorCode::not_found, "the session was lost", "session"};
    for (const Job& job : jobs) {
      StepAnswer answer;
      answer.session = job.session;
      answer.sequence = job.sequence;
      answer.error = &error;
      job.step->on_step(answer);
    }
  }

  void compute() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return (!jobs_.empty() && !held_) || stopping_; });
      if (jobs_.empty()) return;
      Job job = std::move(jobs_.front());
      jobs_.pop_front();
      ++stats_.batches;
      ++stats_.batch_rows;
      ++stats_.batch_sizes[0];
      const std::int64_t started = now();
      const BatchInfo batch{static_cast<std::uint64_t>(stats_.batches), 1, started, now()};
      float behavior[2] = {0, 0};
      const bool dawdles = std::exchange(dawdles_, false);
      if (job.window != nullptr) {
        for (const Event& e : job.events) {
          behavior[0] += static_cast<float>(e.value);
          behavior[1] += static_cast<float>(e.bin);
        }
        behavior[0] *= options_.scale;
        ++stats_.windows;
        window_tenants_.push_back(job.tenant);
        lock.unlock();
        answer_window(job, behavior, started, batch, dawdles);
        lock.lock();
        continue;
      }
      const auto it = sessions_.find(job.session);
      if (it == sessions_.end()) {
        lock.unlock();
        fail({job});
        lock.lock();
        continue;
      }
      Session& session = it->second;
      for (std::int64_t i = 0; i <= job.gap; ++i) session.leaky *= 0.75F;
      for (const Event& e : job.events) {
        behavior[0] += static_cast<float>(e.value);
        session.leaky += static_cast<float>(e.value) * static_cast<float>(e.unit + 1) / 7.0F;
      }
      behavior[0] *= options_.scale;
      behavior[1] = session.leaky;
      StepAnswer answer{.session = job.session, .sequence = job.sequence, .behavior = behavior};
      answer.dropped_events = job.dropped;
      answer.submitted_ns = job.submitted_ns;
      answer.started_ns = started;
      answer.finished_ns = dawdles ? job.submitted_ns : now();
      answer.batch = batch;
      const Error not_finite{ErrorCode::internal, "an output is not finite", "behavior"};
      if (std::exchange(not_finite_, false)) {
        answer.error = &not_finite;
        answer.behavior = {};
        ++stats_.not_finite;
      }
      if (answer.finished_ns > job.deadline_ns) {
        answer.status = job.best_effort ? StepStatus::late : StepStatus::refused;
        if (!job.best_effort) answer.behavior = {};
        ++(job.best_effort ? session.summary.late : session.summary.refused);
        ++(job.best_effort ? stats_.late : stats_.refused);
      }
      ++session.summary.steps;
      ++stats_.steps;
      --session.queued;
      lock.unlock();
      if (dawdles) wait_beyond(job.deadline_ns);
      job.step->on_step(answer);
      lock.lock();
    }
  }

  static void wait_beyond(std::int64_t time) {
    while (now() <= time) std::this_thread::yield();
  }

  static void answer_window(const Job& job, std::span<const float> behavior, std::int64_t started,
                            const BatchInfo& batch, bool dawdles) {
    WindowAnswer answer{.behavior = behavior,
                        .submitted_ns = job.submitted_ns,
                        .started_ns = started,
                        .finished_ns = dawdles ? job.submitted_ns : now(),
                        .batch = batch};
    const Error late{ErrorCode::deadline_exceeded, "the answer would have come too late",
                     "deadline_ms"};
    if (answer.finished_ns > job.deadline_ns && !job.best_effort) {
      answer.behavior = {};
      answer.error = &late;
    }
    if (dawdles) wait_beyond(job.deadline_ns);
    job.window->on_window(answer);
  }

  const FakeOptions options_;
  ModelInfo model_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::map<SessionId, Session> sessions_;
  std::deque<Job> jobs_;
  EngineStats stats_;
  SessionId last_id_ = 0;
  bool held_ = false;
  bool stopping_ = false;
  bool expire_now_ = false;
  bool not_finite_ = false;
  bool dawdles_ = false;
  EngineState state_ = EngineState::ready;
  SessionOptions last_options_;
  std::vector<TenantId> window_tenants_;
  std::thread thread_;
};

}  // namespace cortex::testing
