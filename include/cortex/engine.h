#pragma once

#include <cortex/events.h>
#include <cortex/realtime.h>
#include <cortex/result.h>

#include <array>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

/// The engine: spikes in, behaviour out, before the deadline.
///
///     auto engine = cortex::Engine::create({.model_path = "model.safetensors"});
///     if (!engine) return fail(engine.error());
///     auto session = (*engine)->open_session({});
///     std::vector<cortex::Event> events = {{.unit = 3, .value = 1, .bin = 0}};
///     auto answer = (*engine)->step({.session = session->id, .sequence = 0, .events = events});
///     use(answer->behavior);  // physical units, see model().outputs
namespace cortex {

/// Nanoseconds of CLOCK_MONOTONIC. The largest value means "no deadline".
inline constexpr std::int64_t kNoDeadline = INT64_MAX;

struct OutputInfo {
  std::string name;  ///< e.g. "vel_x"
  std::string unit;  ///< e.g. "mm/s"
};

/// What a program needs to know of the model that an engine serves.
struct ModelInfo {
  std::string path;
  std::string digest;
  std::string kind;  ///< "stream" or "window"
  std::string preset;
  std::string precision;     ///< "fp32", "bf16" or "int8": the narrowest that a linear runs in
  std::string backend;       ///< e.g. "cpu avx512", "cuda:0 NVIDIA H100 80GB HBM3"
  std::string backend_note;  ///< why device "auto" is not a GPU; empty where it is or was not asked
  int threads = 1;           ///< that share one step
  std::int64_t parameters = 0;
  std::vector<OutputInfo> outputs;
  std::vector<std::string> unit_ids;  ///< stream: what Event::unit indexes by default
  double bin_ms = 0;
  double step_ms = 0;           ///< stream
  int bins_per_step = 0;        ///< stream
  int window_steps = 0;         ///< stream
  int context_steps = 0;        ///< stream: no answer depends on more than this many steps
  int max_bins = 0;             ///< window
  int max_neurons = 0;          ///< window
  int max_events = 0;           ///< most events a step (stream) or window may hold
  double target_offset_ms = 0;  ///< stream: time of the answer minus the end of its step
  std::string training_json;    ///< free-form JSON object, may be empty
};

using SessionId = std::uint64_t;

/// Whose request it is: quotas and fair shares are counted by tenant. Ids are dense, below
/// EngineOptions::max_tenants; who they stand for (an API key, a connection) is the caller's
/// affair.
using TenantId = std::uint32_t;

struct SessionOptions {
  /// Source ids of the session's units, in the order that Event::unit indexes. Empty: the model's.
  std::vector<std::string> unit_ids = {};
  /// Model units that the session does not declare are silent instead of an error.
  bool allow_missing_units = false;
  /// Number of the first step; steps before it never existed.
  std::int64_t first_step = 0;
  /// An event outside its step's bins is dropped and counted instead of an error.
  bool drop_out_of_step = false;
  TenantId tenant = 0;
  /// Steps a second that the session will send; 0: the model's own rate, 1000 / step_ms. That much
  /// of the predicted capacity is reserved; steps sent faster wait behind those of sessions that
  /// keep to their rate.
  double step_rate_hz = 0;
  /// Nothing is reserved: the session's steps run in time that the others leave.
  bool best_effort = false;
};

struct SessionInfo {
  SessionId id = 0;
  std::int64_t next_step = 0;
  double step_rate_hz = 0;  ///< reserved; 0 where best_effort
};

/// fresh: in time. late: computed, handed over after its deadline. refused: computed, so that the
/// stream stays exact, but withheld because its deadline had passed.
enum class StepStatus { fresh, late, refused };
constexpr const char* to_string(StepStatus status) {
  switch (status) {
    case StepStatus::fresh:
      return "fresh";
    case StepStatus::late:
      return "late";
    case StepStatus::refused:
      return "refused";
  }
  return "refused";
}

struct StepRequest {
  SessionId session = 0;
  /// Step `sequence` owns the bins [sequence * k, (sequence + 1) * k), k = bins_per_step.
  std::int64_t sequence = 0;
  /// Empty steps to run before this one; `sequence` counts them.
  std::int64_t gap = 0;
  /// Copied before submit() returns. Any order; duplicates of (bin, unit) are added up.
  std::span<const Event> events = {};
  std::int64_t deadline_ns = kNoDeadline;
  /// Hand a late answer over (marked) instead of withholding it.
  bool best_effort = false;
};

/// The batch that an answer came out of, the last one where it took several. Spans of a request:
/// queue [submitted, started], batch [started, forward], compute [forward, computed], hand-over
/// [computed, finished]; all CLOCK_MONOTONIC.
struct BatchInfo {
  std::uint64_t id = 0;  ///< one more than the batch before; 0: the request was in no batch
  int size = 0;          ///< steps or windows in it
  std::int64_t forward_ns = 0;
  std::int64_t computed_ns = 0;
};

struct StepAnswer {
  SessionId session = 0;
  std::int64_t sequence = 0;
  StepStatus status = StepStatus::fresh;
  std::span<const float> behavior;  ///< [outputs], valid during the call; empty when refused
  std::int64_t dropped_events = 0;  ///< out of step, where the session asked for dropping
  std::int64_t submitted_ns = 0;    ///< CLOCK_MONOTONIC, when submit() took the request
  std::int64_t started_ns = 0;      ///< when the compute thread took it
  std::int64_t finished_ns = 0;
  BatchInfo batch = {};
  /// unavailable: the session is lost, and with it this step. internal, field "behavior": the step
  /// was computed, but its output is not finite; the session goes on. Null: neither.
  const Error* error = nullptr;
};

/// Called once for every step that submit() accepted, on the compute thread: copy and return.
class StepSink {
 public:
  virtual ~StepSink() = default;
  virtual void on_step(const StepAnswer& answer) noexcept = 0;
};

/// A stateless request: on a window model one window; on a stream model its events run from an
/// empty session and the last step is the answer.
struct WindowRequest {
  std::span<const Event> events = {};  ///< copied before submit() returns
  std::int64_t deadline_ns = kNoDeadline;
  bool best_effort = false;  ///< taken and served late where it would be refused
  TenantId tenant = 0;
};

struct WindowAnswer {
  std::span<const float> behavior;  ///< [outputs], valid during the call
  std::int64_t submitted_ns = 0;
  std::int64_t started_ns = 0;
  std::int64_t finished_ns = 0;
  BatchInfo batch = {};
  const Error* error = nullptr;  ///< e.g. deadline_exceeded
};

class WindowSink {
 public:
  virtual ~WindowSink() = default;
  virtual void on_window(const WindowAnswer& answer) noexcept = 0;
};

/// A step's or window's answer that owns its values, for the blocking calls.
struct OwnedAnswer {
  std::vector<float> behavior;
  StepStatus status = StepStatus::fresh;
  std::int64_t submitted_ns = 0;
  std::int64_t started_ns = 0;
  std::int64_t finished_ns = 0;
  BatchInfo batch = {};
};

/// Totals of a session, returned when it closes. Latencies run from submit() to the answer.
struct SessionSummary {
  std::int64_t steps = 0;
  std::int64_t late = 0;
  std::int64_t refused = 0;
  std::int64_t dropped_events = 0;
  double p50_us = 0;
  double p99_us = 0;
  double p999_us = 0;
  double max_us = 0;
};

/// Gauges are of now; counts only rise. Recording is wait-free.
struct EngineStats {
  std::int64_t sessions = 0;
  std::int64_t pages_used = 0;
  std::int64_t pages_total = 0;
  std::int64_t cache_bytes = 0;
  std::int64_t cache_hits = 0;    ///< steps that found their session's caches
  std::int64_t cache_misses = 0;  ///< steps whose session was closed, expired or lost
  std::int64_t queue_depth = 0;
  std::int64_t batches = 0;
  std::int64_t steps = 0;
  std::int64_t windows = 0;
  std::int64_t late = 0;     ///< handed over after the deadline
  std::int64_t refused = 0;  ///< all that was refused or withheld for its deadline, of three kinds:
  std::int64_t predicted_misses = 0;  ///< windows refused by submit()
  std::int64_t shed = 0;              ///< windows taken and given up before they were computed
  std::int64_t withheld = 0;          ///< steps and windows computed, but too late
  std::int64_t cancelled = 0;         ///< windows withdrawn by cancel()
  std::int64_t not_finite = 0;        ///< answers withheld because an output was not finite
  std::int64_t failed_batches = 0;    ///< batches whose computation failed
  std::int64_t recoveries = 0;        ///< times that the device was set up again after it failed
  bool fell_back = false;  ///< the device did not come back: computing goes on on the CPU
  std::int64_t device_memory_used_bytes = -1;  ///< of the whole GPU, by anyone; -1 on the CPU
  std::int64_t busy_ns = 0;                    ///< time in which batches were computed

  /// batch_sizes[i]: batches of more than 2^(i-1) and at most 2^i steps or windows.
  static constexpr int kBatchSizeBuckets = 17;
  std::array<std::int64_t, kBatchSizeBuckets> batch_sizes = {};
  std::int64_t batch_rows = 0;  ///< steps and windows in all batches; a step with a gap is several

  double predicted_batch_us = 0;  ///< of a batch of one, as the cost model expects it now
  double capacity_hz = 0;  ///< steps (window model: windows) a second that the engine expects to do
  double reserved_hz = 0;  ///< steps a second that open sessions have declared
  double behind_hz = 0;    ///< of these, of sessions that the engine does not keep up with
};

/// warming: answers nothing yet. recovering: the device failed and is being set up again.
enum class EngineState { warming, ready, recovering, failed };
constexpr const char* to_string(EngineState state) {
  switch (state) {
    case EngineState::warming:
      return "warming";
    case EngineState::ready:
      return "ready";
    case EngineState::recovering:
      return "recovering";
    case EngineState::failed:
      return "failed";
  }
  return "failed";
}

/// What runs next, and what is refused. edf: earliest deadline first, behind admission by predicted
/// finish and rate. fifo: in order of arrival, nothing refused but for room, late or not: to
/// compare.
enum class SchedulerPolicy { edf, fifo };

struct EngineOptions {
  std::string model_path = {};
  /// "cpu", "cuda:N", or "auto": the first GPU that this build and machine can use, else the CPU.
  std::string device = "auto";
  int max_sessions = 16;
  /// Steps or windows computed at once; 0: what suits the device. At most as many streams as
  /// max_sessions are ever ready together.
  int max_batch = 0;
  /// Batches of a stream model on their way at once: with 2 the next one is packed and sent while
  /// the device computes, and waits there for the one before it. 0: 2 on a GPU, else 1.
  int batches_in_flight = 0;
  int max_queued_steps = 4;  ///< a session's steps waiting or in flight
  int max_queued_windows = 256;
  int max_window_events = 16384;
  int threads = 0;  ///< cores that share one step; 0: what suits the model and the machine
  double idle_timeout_s = 300;  ///< a session without steps for this long may be expired
  int max_tenants = 64;
  int max_tenant_sessions = 0;  ///< of one tenant; 0: no limit of its own
  int max_tenant_windows = 0;   ///< of one tenant, waiting; 0: no limit of its own
  /// Share of the predicted capacity that declared step rates may fill, all together and of one
  /// tenant. Above 1 they promise more than the engine expects to hold.
  double max_utilisation = 0.95;
  double max_tenant_utilisation = 0.95;
  SchedulerPolicy policy = SchedulerPolicy::edf;
  /// How long the compute thread polls for work before it sleeps: waking a thread takes tens of
  /// microseconds where its core has gone idle. As long as the time between two steps, it never
  /// sleeps, and its core is never idle.
  int busy_poll_us = 0;
  /// Lock memory, pin the compute thread and run it under SCHED_FIFO, as far as the system allows:
  /// Engine::realtime() says what it granted. Never fatal.
  bool realtime = false;
  /// Called on the compute thread when the answers of a batch, which have a BatchInfo::id, are with
  /// their sinks. Sinks that pass answers on to other threads may leave waking those to this: a
  /// wake-up is a system call, and one a batch is enough. Must not throw.
  std::function<void()> on_batch_answered = {};
  /// A float window model's linears in 8-bit floats, on a Hopper GPU.
  bool fp8 = false;
  /// A file of `cortex tune`, for windows on a Hopper GPU in place of the table that ships. Counts
  /// for the whole process.
  std::string gemm_table = {};
};

class Engine {
 public:
  /// Loads and checks the model, reserves every buffer, runs one warm-up forward.
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options);
  virtual ~Engine() = default;  ///< answers what it accepted, then stops

  virtual const ModelInfo& model() const = 0;

  /// resource_exhausted when no pages are left (field "sessions"), when the declared step rate does
  /// not fit the predicted capacity ("step_rate_hz", the message names both) or at a tenant's limit
  /// ("tenant"); invalid_argument lists units that do not match.
  virtual Result<SessionInfo> open_session(const SessionOptions& options) = 0;
  virtual Result<SessionSummary> close_session(SessionId id) = 0;

  /// Queues a step. invalid_argument: an event's unit, value or bin is out of range (nothing was
  /// taken, the session is as it was); out_of_order: not the session's next step; not_found: no
  /// such session (expired or closed); resource_exhausted: too many of its steps are queued;
  /// too_large: more events than max_events.
  virtual Result<void> submit(const StepRequest& request, StepSink& sink) = 0;
  /// deadline_exceeded, at once: the request is predicted to miss, or would make one that was taken
  /// miss, and is not best_effort. resource_exhausted: the queue is full, field "tenant" where it
  /// is the tenant's own share of it. One that was taken may still end in deadline_exceeded, when
  /// others took longer than predicted.
  virtual Result<void> submit(const WindowRequest& request, WindowSink& sink) = 0;

  /// Withdraws the windows of a sink that no batch has taken; how many. The sink never hears of
  /// these; the others are answered.
  virtual int cancel(const WindowSink& /*sink*/) { return 0; }

  /// submit() and wait.
  Result<OwnedAnswer> step(const StepRequest& request);
  Result<OwnedAnswer> decode(const WindowRequest& request);

  /// Closes sessions idle for longer than the timeout; how many. Called by whoever owns a timer.
  virtual int expire_idle_sessions() = 0;
  virtual EngineStats stats() const = 0;
  virtual EngineState state() const { return EngineState::ready; }

  /// What real-time mode was granted and refused; empty where it was not asked for.
  virtual std::span<const RealtimeGrant> realtime() const { return {}; }
};

}  // namespace cortex
