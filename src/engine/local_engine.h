#pragma once

#include <cortex/engine.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <unordered_map>
#include <vector>

#include "cache/page_pool.h"
#include "core/clock.h"
#include "engine/session.h"
#include "kernels/ops.h"
#include "model/stream_model.h"
#include "model/weights.h"
#include "model/window_model.h"
#include "scheduler/batch_former.h"

namespace cortex {

/// One replica in this process: one backend, one compute thread, one page pool.
///
/// Callers' threads validate and queue under the lock. The compute thread takes a batch, runs it
/// without the lock, hands the answers over, then lets go of the sessions.
class LocalEngine final : public Engine {
 public:
  LocalEngine(const EngineOptions& options, const ModelFile& file);
  ~LocalEngine() override;

  const ModelInfo& model() const override { return info_; }
  Result<SessionInfo> open_session(const SessionOptions& options) override;
  Result<SessionSummary> close_session(SessionId id) override;
  Result<void> submit(const StepRequest& request, StepSink& sink) override;
  Result<void> submit(const WindowRequest& request, WindowSink& sink) override;
  int expire_idle_sessions() override;
  EngineStats stats() const override;

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
  std::unique_ptr<Session> make_session(SessionId id, const SessionOptions& options, int queued,
                                        std::size_t job_events) const;
  void warm_up();

  // Compute thread.
  void run();
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

  mutable std::mutex mutex_;
  std::condition_variable work_;  // something became ready, or the end
  std::condition_variable idle_;  // a session left the compute thread
  bool stopping_ = false;
  std::unique_ptr<PagePool> pages_;
  std::unordered_map<SessionId, std::unique_ptr<Session>> sessions_;
  SessionId last_id_ = 0;
  EdfQueue ready_;          // keys are session ids
  EdfQueue ready_windows_;  // keys are indices into window_jobs_
  std::vector<WindowJob> window_jobs_;
  std::vector<std::uint64_t> free_window_jobs_;
  std::vector<SessionId> free_decoders_;  // internal sessions that wait for a stateless request

  std::vector<std::uint64_t> batch_keys_;
  std::vector<Session*> batch_sessions_;
  std::vector<Refusal> refusals_;  // stateless requests too late to start
  StreamBatch stream_batch_;
  WindowBatch window_batch_;

  Counter batches_;
  Counter steps_;
  Counter windows_;
  Counter late_;
  Counter refused_;
  std::thread thread_;
};

}  // namespace cortex
