#pragma once

#include <cortex/engine.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "cache/event_store.h"
#include "cache/stream_state.h"
#include "core/memory.h"
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
  int forwards = 1;               ///< steps that it runs
  std::span<const Event> events;  ///< sorted by (bin, unit), merged
  std::size_t cursor = 0;         ///< first event that has not run
  bool begun = false;             ///< its first step has run or runs
};

/// A live stream: its caches, its queue, its totals.
///
/// Clients take `intake` one at a time; it guards `tail`, `expected`, `closed` and `store`, and the
/// slot at `tail` is the holder's to fill. A session with a step queued is offered to the compute
/// thread, which takes it back when it finds none. The engine's queue lock guards what leaves the
/// queue and `in_flight`. The compute thread alone touches `head`, `state`, the front job and the
/// totals while `in_flight`, and never takes `intake`.
struct Session {
  Session(SessionId session_id, const ModelConfig& config, const SessionOptions& session_options,
          int max_queued, std::size_t max_step_events);

  StreamJob& front() { return ring[head]; }
  /// An empty ring begins anew: what its first slot last held is still in caches. Whoever takes
  /// jobs out looks at no slot until there is one to take.
  StreamJob& tail_slot() {
    if (queued.load(std::memory_order_acquire) == 0) head = tail = 0;
    return ring[tail];
  }
  /// Of one that is offered and not in flight: whether it has a front job, else it is offered no
  /// more. A client that queues a step meanwhile sees the one or the other.
  bool stays_offered() {
    if (queued > 0) return true;
    offered = false;
    return queued > 0 && !offered.exchange(true);
  }
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
  /// Fetches what a batch is about to read: the session, then what it points to, then the events
  /// of its next step and of those before it. Each is of use once the one before it has arrived.
  void prefetch() const;
  void prefetch_job() const;
  void prefetch_events() const;
  /// Packs the present step's view of its caches.
  void append_to(StreamBatch& batch, int bins_per_step) const;

  SessionId id;
  SessionOptions options;
  std::vector<std::int32_t> unit_rows;  ///< declared unit -> row of the model's table

  std::mutex intake;
  bool closed = false;
  /// A batch with it failed: its caches are no longer what its steps made them. Under calls_mutex_
  /// of the engine.
  bool lost = false;
  std::int64_t expected = 0;  ///< sequence that submit() will take next
  std::size_t tail = 0;
  EventStore store;  ///< of its queued steps, and of those that the next one sees

  // What the compute thread touches for every step lies in a few lines of memory.
  alignas(kCacheLine) std::atomic<std::size_t> queued{0};  ///< read anywhere
  std::atomic<std::int64_t> done;    ///< the last step of the job that left the front last
  std::atomic<bool> offered{false};  ///< the compute thread knows, or is told, of its front job
  bool in_flight = false;
  bool internal = false;  ///< serves stateless requests; no client owns it
  std::size_t head = 0;
  std::vector<StreamJob> ring;
  StreamState state;
  std::vector<std::int32_t> pages;
  StepFlow flow;  ///< under the queue lock
  std::atomic<std::int64_t> last_active_ns{0};
  std::int64_t steps = 0;
  std::int64_t late = 0;
  std::int64_t refused = 0;
  std::int64_t dropped_events = 0;
  LatencyHistogram latency;

  std::vector<Event> window_events;  ///< of the request that an internal one serves
};

/// What a session is called in a queue of ready work, and back.
inline std::uint64_t key_of(const Session& session) {
  return reinterpret_cast<std::uintptr_t>(&session);
}
inline Session* session_of(std::uint64_t key) {
  return reinterpret_cast<Session*>(static_cast<std::uintptr_t>(key));
}

}  // namespace cortex
