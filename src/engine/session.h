#pragma once

#include <cortex/engine.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "cache/stream_state.h"
#include "model/stream_model.h"
#include "scheduler/scheduler.h"
#include "telemetry/metrics.h"

namespace cortex {

/// What is left of a job once it is out of its queue: enough to answer it.
struct JobTerms {
  std::int64_t last_step = 0;
  std::int64_t deadline_ns = kNoDeadline;
  bool best_effort = false;
  std::int64_t dropped_events = 0;
  std::int64_t submitted_ns = 0;
  std::int64_t started_ns = 0;
  StepSink* sink = nullptr;
  WindowSink* window_sink = nullptr;  ///< instead, where a stateless request runs as a stream
};

/// Work on one stream: run every step from the stream's next one up to `last_step`, each with its
/// events, and answer for the last.
struct StreamJob : JobTerms {
  int forwards = 1;           ///< steps that it runs
  std::vector<Event> events;  ///< sorted by (bin, unit), merged; capacity reserved
  std::size_t cursor = 0;     ///< first event that has not run
  bool begun = false;         ///< its first step has run or runs
};

/// A live stream: its caches, its queue, its totals.
///
/// Clients take `intake` one at a time; it guards `tail`, `expected` and `closed`, and the slot at
/// `tail` is the holder's to fill. The engine's queue lock guards the length of the queue and
/// `in_flight`. The compute thread alone touches `head`, `state`, the front job and the totals
/// while `in_flight`, and never takes `intake`.
struct Session {
  Session(SessionId session_id, const ModelConfig& config, const SessionOptions& session_options,
          int max_queued, std::size_t max_job_events);

  StreamJob& front() { return ring[head]; }
  StreamJob& tail_slot() { return ring[tail]; }
  bool full() const { return queued.load(std::memory_order_acquire) == ring.size(); }
  /// The slot at `tail` is filled: it joins the queue.
  void push_back();
  void pop_front();
  /// The job that would run last leaves the queue.
  const StreamJob& pop_back();
  /// What the scheduler is told of the front job.
  StepOffer offer() const;
  /// The front job's next step becomes the present one; appended to the batch by the caller.
  void advance(int bins_per_step, int context_steps);
  bool front_finished() { return state.next_step() > front().last_step; }
  /// Packs the present step's view of its caches.
  void append_to(StreamBatch& batch, int bins_per_step) const;

  SessionId id;
  SessionOptions options;
  std::vector<std::int32_t> unit_rows;  ///< declared unit -> row of the model's table
  std::vector<std::int32_t> pages;
  StepFlow flow;  ///< under the queue lock
  StreamState state;

  std::mutex intake;
  bool closed = false;
  std::int64_t expected = 0;  ///< sequence that submit() will take next
  std::vector<StreamJob> ring;
  std::size_t head = 0;
  std::size_t tail = 0;
  std::atomic<std::size_t> queued{0};  ///< written under the queue lock, read anywhere
  bool in_flight = false;
  bool internal = false;  ///< serves stateless requests; no client owns it
  /// A batch with it failed: its caches are no longer what its steps made them. Under the queue
  /// lock.
  bool lost = false;
  std::atomic<std::int64_t> last_active_ns{0};

  LatencyHistogram latency;
  std::int64_t steps = 0;
  std::int64_t late = 0;
  std::int64_t refused = 0;
  std::int64_t dropped_events = 0;
};

/// What a session is called in a queue of ready work, and back.
inline std::uint64_t key_of(const Session& session) {
  return reinterpret_cast<std::uintptr_t>(&session);
}
inline Session* session_of(std::uint64_t key) {
  return reinterpret_cast<Session*>(static_cast<std::uintptr_t>(key));
}

}  // namespace cortex
