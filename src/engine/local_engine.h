#pragma once

#include <cortex/engine.h>

#include <array>
#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <thread>
#include <vector>

#include "cache/session_table.h"
#include "core/clock.h"
#include "core/mutex.h"
#include "engine/session.h"
#include "kernels/backend.h"
#include "model/stream_model.h"
#include "model/weights.h"
#include "model/window_model.h"
#include "scheduler/scheduler.h"

namespace cortex {

constexpr int kMostFlights = 2;  ///< EngineOptions::batches_in_flight

/// What the computation of a batch has met.
struct ComputeFailure {
  std::string why;
  bool of_device = false;
};

/// What the CPU backend of an engine is asked for.
CpuOptions cpu_options(const ModelFile& file, const EngineOptions& options);

/// One replica in this process: one backend, one compute thread, one page pool.
///
/// Four locks, taken in this order and never two of a kind:
///   registry_mutex_   which sessions and pages there are; clients alone
///   Session::intake   one client at a time checks a step and copies it to its slot
///   queue_mutex_      the scheduler and what is in flight: no allocation, no copy of a request
///   calls_mutex_      steps that became ready, until the compute thread fetches them
/// The compute thread takes the last two only: it takes a batch, runs it without a lock, hands the
/// answers over, then lets go of the sessions. A client that submits a step takes no lock that the
/// compute thread holds for longer than to fetch what was offered.
class LocalEngine final : public Engine {
 public:
  /// As Engine::create, of a model that is in memory; options.model_path only names it.
  static Result<std::unique_ptr<LocalEngine>> create(const EngineOptions& options,
                                                     const ModelFile& file);
  /// Deadlines and answers are times of `clock`, which outlives the engine.
  LocalEngine(const EngineOptions& options, const ModelFile& file, Backend backend,
              const Clock& clock = RealClock::instance());
  ~LocalEngine() override;

  const ModelInfo& model() const override { return info_; }
  Result<SessionInfo> open_session(const SessionOptions& options) override;
  Result<SessionSummary> close_session(SessionId id) override;
  Result<void> submit(const StepRequest& request, StepSink& sink) override;
  Result<void> submit(const WindowRequest& request, WindowSink& sink) override;
  int cancel(const WindowSink& sink) override;
  int expire_idle_sessions() override;
  EngineStats stats() const override;
  EngineState state() const override { return state_; }
  std::span<const RealtimeGrant> realtime() const override { return realtime_; }

 private:
  struct WindowJob {
    std::vector<Event> events;
    std::int64_t deadline_ns = kNoDeadline;
    bool best_effort = false;
    std::int64_t submitted_ns = 0;
    WindowSink* sink = nullptr;
  };

  struct Counters {
    Counter batches;
    Counter batch_rows;
    Counter busy_ns;
    std::array<Counter, EngineStats::kBatchSizeBuckets> batch_sizes;
    Counter failed_batches;
    Counter recoveries;
    Counter steps;
    Counter windows;
    Counter late;
    Counter predicted_misses;
    Counter shed;
    Counter withheld;
    Counter cancelled;
    Counter not_finite;
  };

  bool streams() const { return config_.streams(); }
  void reserve_streams(const ModelFile& file);
  /// The model and its pool of pages into the backend's memory.
  void place_model(const ModelFile& file);
  /// Where the backend keeps calls, makes each once.
  void warm_up();
  /// What batches of several sizes take, within a budget.
  std::vector<BatchCost> measure_batches();
  TimeNs time_forward(int rows, int keys);
  /// One request through the queue.
  void run_once();

  // Clients.
  std::shared_ptr<Session> find_session(SessionId id);
  Result<void> check_tenant(TenantId tenant) const;
  /// Reserves the session's rate and a place among its tenant's.
  Result<void> admit(const Session& session);
  /// What follows when a session is no longer found: its waiting steps are failed, its pages and
  /// its rate given back.
  SessionSummary finish_closing(Session& session);
  /// Takes a free place for a stateless request; none: resource_exhausted.
  Result<std::uint64_t> take_window_job();
  WindowOffer offer_of(std::uint64_t index, TenantId tenant) const;
  /// Whoever has made work ready, or an end, tells the compute thread.
  void call_compute();
  /// Hands to the scheduler what clients have offered. Under the queue lock.
  void take_offers();
  Error refusal(Verdict verdict, const WindowOffer& offer) const;

  /// A batch on its way: taken, launched, answered.
  struct Flight {
    int lane = 0;                    ///< of a stream model, which keeps it
    std::vector<Work> taken;         ///< in the order of the batch's rows
    std::vector<Session*> sessions;  ///< of streams, likewise
    std::int64_t started_ns = 0;
    BatchInfo info;
  };

  // Compute thread.
  void run();
  /// Takes into `next_` what is to run next: after waiting for something, or, with a batch on its
  /// way, only if that much is ready that packing it is worth the while. False when the engine
  /// ends.
  bool take_batch();
  /// Whether to take a batch behind the one that is on its way.
  bool is_worth_a_flight() const;
  /// Waits for a call, polling for as long as the options say.
  void await_call();
  void begin_windows();
  void fail_shed();
  /// Launches what was taken, then answers what was on its way before it.
  void run_batches();
  void launch(Flight& flight);
  void pack_windows(const Flight& flight);
  /// Waits for a batch that was launched, unless that failed, and answers it. What it has met.
  std::optional<ComputeFailure> end_batch(Flight& flight, std::optional<ComputeFailure> failure);
  void count_batch(Flight& flight);
  void answer_streams(const Flight& flight, std::span<const float> behavior);
  void answer_windows(const Flight& flight, std::span<const float> behavior);
  /// A front job whose steps up to its last one have run.
  struct Finished : JobTerms {
    Session* session;
    std::size_t row;  // of the batch
  };
  void answer(const Finished& job, const BatchInfo& batch, std::span<const float> behavior);
  /// The computation of the batch failed: every request in it is answered with an error, every
  /// session in it is lost.
  void fail_batch(const Flight& flight, const char* why);
  /// The device failed: fails every session, then sets it up again or, where it does not come back,
  /// the CPU.
  void recover(const std::string& why);
  void lose_streams(const Error& error);
  /// What is in the way; empty: nothing is.
  std::string set_up_again(const std::string& device);
  void fail_everything(const Error& error);
  /// Takes out the front job and answers it with `error`; false: there is none.
  bool fail_front(Session& session, const Error& error);
  /// The sessions of the batch are free to be taken again, or closed.
  void let_go(const Flight& flight);
  void fail_window(WindowSink& sink, std::int64_t submitted_ns, const Error& error);
  void end_window(std::uint64_t index, std::uint32_t tenant);
  void end_decode(Session& session, std::uint32_t tenant);
  /// An error in `text_error_`, if an output is not finite. `job`: whose step it is; null: a
  /// window.
  const Error* not_finite(std::span<const float> behavior, const Finished* job);

  const EngineOptions options_;
  const ModelConfig config_;
  const Clock& clock_;
  ModelInfo info_;
  int bins_per_step_ = 1;
  std::atomic<EngineState> state_{EngineState::warming};
  std::atomic<bool> fell_back_{false};  // from device_ to the CPU
  std::string device_;                  // as make_backend names it
  std::optional<ModelFile> kept_;       // on a GPU, to set it up again
  std::unique_ptr<Ops> ops_;            // changes under the queue lock
  PageLayout layout_;
  Buffer pool_memory_;
  std::size_t pool_bytes_ = 0;
  int lanes_ = 1;  // of stream_
  std::unique_ptr<StreamForward> stream_;
  std::unique_ptr<WindowForward> window_;

  mutable std::shared_mutex registry_mutex_;  // shared by those who only look a session up
  std::optional<SessionTable<std::shared_ptr<Session>>> sessions_;

  /// A session's step that became ready.
  struct Offer {
    StepOffer step;
    StepFlow* flow;
  };
  // Written for every step by clients: apart from what the compute thread writes for every step.
  alignas(kCacheLine) PriorityMutex calls_mutex_{options_.realtime};
  PriorityCondition call_;
  // Since the compute thread last waited, which alone takes it back. Written under calls_mutex_.
  std::atomic<bool> called_ = false;
  std::vector<Offer> offers_;
  Counter cache_hits_;
  Counter cache_misses_;

  alignas(kCacheLine) mutable PriorityMutex queue_mutex_{options_.realtime};
  PriorityCondition idle_;  // a session left the compute thread
  std::atomic<bool> stopping_ = false;
  std::vector<Offer> taken_offers_;
  std::optional<Scheduler> scheduler_;  // keys: addresses of sessions, indices of window jobs
  std::vector<WindowJob> window_jobs_;
  std::vector<std::uint64_t> free_window_jobs_;
  std::vector<std::unique_ptr<Session>> decoders_;  // run stateless requests as streams
  std::vector<Session*> free_decoders_;

  // Compute thread, all of their full size from the start.
  std::array<Flight, kMostFlights> flights_;
  Flight* next_ = nullptr;     // taken; null: nothing was
  Flight* running_ = nullptr;  // launched and on its way
  bool lost_ = false;          // the device
  std::uint64_t batches_ = 0;
  std::int64_t computed_ns_ = 0;  // the last batch
  std::vector<Finished> finished_;
  struct Refused {
    WindowSink* sink;
    std::int64_t submitted_ns;
  };
  std::vector<Refused> refused_;  // stateless requests that were given up

  Counters count_;
  const Error too_late_;
  Error text_error_;  // its text has room enough
  std::vector<RealtimeGrant> realtime_;
  std::thread thread_;
};

}  // namespace cortex
