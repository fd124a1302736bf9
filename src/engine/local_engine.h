#pragma once

#include <cortex/engine.h>

#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cache/page_pool.h"
#include "core/clock.h"
#include "core/mutex.h"
#include "engine/session.h"
#include "kernels/backend.h"
#include "model/stream_model.h"
#include "model/weights.h"
#include "model/window_model.h"
#include "scheduler/batch_former.h"

namespace cortex {

/// One replica in this process: one backend, one compute thread, one page pool.
///
/// Three locks, taken in this order and never two of a kind:
///   registry_mutex_   which sessions and pages there are; clients alone
///   Session::intake   one client at a time checks a step and copies it to its slot
///   queue_mutex_      what is ready and in flight: a few words at a time, no allocation, no copy
/// The compute thread takes the last one only: it takes a batch, runs it without a lock, hands the
/// answers over, then lets go of the sessions.
class LocalEngine final : public Engine {
 public:
  /// As Engine::create, of a model that is in memory; options.model_path only names it.
  static Result<std::unique_ptr<LocalEngine>> create(const EngineOptions& options,
                                                     const ModelFile& file);
  LocalEngine(const EngineOptions& options, const ModelFile& file, Backend backend);
  ~LocalEngine() override;

  const ModelInfo& model() const override { return info_; }
  Result<SessionInfo> open_session(const SessionOptions& options) override;
  Result<SessionSummary> close_session(SessionId id) override;
  Result<void> submit(const StepRequest& request, StepSink& sink) override;
  Result<void> submit(const WindowRequest& request, WindowSink& sink) override;
  int expire_idle_sessions() override;
  EngineStats stats() const override;
  std::span<const RealtimeGrant> realtime() const override { return realtime_; }

 private:
  struct WindowJob {
    std::vector<Event> events;
    std::int64_t deadline_ns = kNoDeadline;
    bool best_effort = false;
    std::int64_t submitted_ns = 0;
    WindowSink* sink = nullptr;
  };

  struct Refusal {
    WindowSink* sink;
    std::int64_t submitted_ns;
  };

  bool streams() const { return config_.kind == ModelKind::stream; }
  void reserve_streams(const ModelFile& file);
  void reserve_windows(const ModelFile& file);
  /// Runs every size of batch once, then one request through the queue.
  void warm_up();
  void run_once();
  std::shared_ptr<Session> find_session(SessionId id) const;
  /// Takes a free place for a stateless request; none: resource_exhausted.
  Result<std::uint64_t> take_window_job();

  // Compute thread.
  void run();
  /// Takes what is ready, after waiting for something; false when the engine ends.
  bool take_batch();
  void start_decodes();
  void run_stream_batch();
  void run_window_batch();
  void answer_front(Session& session, std::span<const float> behavior);
  void fail_window(WindowSink& sink, std::int64_t submitted_ns);

  const EngineOptions options_;
  const ModelConfig config_;
  const Clock& clock_ = RealClock::instance();
  ModelInfo info_;
  int bins_per_step_ = 1;
  std::unique_ptr<Ops> ops_;
  PageLayout layout_;
  Buffer pool_memory_;
  std::unique_ptr<StreamModel> stream_;
  std::unique_ptr<WindowModel> window_;

  mutable std::mutex registry_mutex_;
  std::unique_ptr<PagePool> pages_;
  std::unordered_map<SessionId, std::shared_ptr<Session>> sessions_;
  SessionId last_id_ = 0;

  mutable PriorityMutex queue_mutex_;
  PriorityCondition work_;  // something became ready, or the end
  PriorityCondition idle_;  // a session left the compute thread
  bool stopping_ = false;
  EdfQueue ready_;          // keys are addresses of sessions
  EdfQueue ready_windows_;  // keys are indices into window_jobs_
  std::vector<WindowJob> window_jobs_;
  std::vector<std::uint64_t> free_window_jobs_;
  std::vector<std::unique_ptr<Session>> decoders_;  // run stateless requests as streams
  std::vector<Session*> free_decoders_;

  // Compute thread, all of their full size from the start.
  std::vector<std::uint64_t> batch_keys_;
  std::vector<Session*> batch_sessions_;
  std::vector<Refusal> refusals_;  // stateless requests too late to start
  WindowBatch window_batch_;

  Counter batches_;
  Counter steps_;
  Counter windows_;
  Counter late_;
  Counter refused_;
  const Error too_late_;
  std::vector<RealtimeGrant> realtime_;
  std::thread thread_;
};

}  // namespace cortex
