#pragma once

#include <cortex/events.h>
#include <cortex/realtime.h>
#include <cortex/result.h>

#include <cstdint>
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

struct SessionOptions {
  /// Source ids of the session's units, in the order that Event::unit indexes. Empty: the model's.
  std::vector<std::string> unit_ids = {};
  /// Model units that the session does not declare are silent instead of an error.
  bool allow_missing_units = false;
  /// Number of the first step; steps before it never existed.
  std::int64_t first_step = 0;
  /// An event outside its step's bins is dropped and counted instead of an error.
  bool drop_out_of_step = false;
};

struct SessionInfo {
  SessionId id = 0;
  std::int64_t next_step = 0;
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

struct StepAnswer {
  SessionId session = 0;
  std::int64_t sequence = 0;
  StepStatus status = StepStatus::fresh;
  std::span<const float> behavior;  ///< [outputs], valid during the call; empty when refused
  std::int64_t dropped_events = 0;  ///< out of step, where the session asked for dropping
  std::int64_t submitted_ns = 0;    ///< CLOCK_MONOTONIC, when submit() took the request
  std::int64_t started_ns = 0;      ///< when the compute thread took it
  std::int64_t finished_ns = 0;
  const Error* error = nullptr;  ///< the session was lost; the other fields say nothing
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
  bool best_effort = false;
};

struct WindowAnswer {
  std::span<const float> behavior;  ///< [outputs], valid during the call
  std::int64_t submitted_ns = 0;
  std::int64_t started_ns = 0;
  std::int64_t finished_ns = 0;
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

struct EngineStats {
  std::int64_t sessions = 0;
  std::int64_t pages_used = 0;
  std::int64_t pages_total = 0;
  std::int64_t cache_bytes = 0;
  std::int64_t queue_depth = 0;
  std::int64_t batches = 0;
  std::int64_t steps = 0;
  std::int64_t windows = 0;
  std::int64_t late = 0;
  std::int64_t refused = 0;
};

struct EngineOptions {
  std::string model_path = {};
  /// "cpu", "cuda:N", or "auto": the first GPU that this build and machine can use, else the CPU.
  std::string device = "auto";
  int max_sessions = 16;
  int max_batch = 16;
  int max_queued_steps = 4;  ///< a session's steps waiting or in flight
  int max_queued_windows = 256;
  int max_window_events = 16384;
  int threads = 0;  ///< cores that share one step; 0: what suits the model and the machine
  double idle_timeout_s = 300;  ///< a session without steps for this long may be expired
  /// Lock memory, pin the compute thread and run it under SCHED_FIFO, as far as the system allows:
  /// Engine::realtime() says what it granted. Never fatal.
  bool realtime = false;
};

class Engine {
 public:
  /// Loads and checks the model, reserves every buffer, runs one warm-up forward.
  static Result<std::unique_ptr<Engine>> create(const EngineOptions& options);
  virtual ~Engine() = default;  ///< answers what it accepted, then stops

  virtual const ModelInfo& model() const = 0;

  /// resource_exhausted when no pages are left; invalid_argument lists units that do not match.
  virtual Result<SessionInfo> open_session(const SessionOptions& options) = 0;
  virtual Result<SessionSummary> close_session(SessionId id) = 0;

  /// Queues a step. invalid_argument: an event's unit, value or bin is out of range (nothing was
  /// taken, the session is as it was); out_of_order: not the session's next step; not_found: no
  /// such session (expired or closed); resource_exhausted: too many of its steps are queued;
  /// too_large: more events than max_events.
  virtual Result<void> submit(const StepRequest& request, StepSink& sink) = 0;
  virtual Result<void> submit(const WindowRequest& request, WindowSink& sink) = 0;

  /// submit() and wait.
  Result<OwnedAnswer> step(const StepRequest& request);
  Result<OwnedAnswer> decode(const WindowRequest& request);

  /// Closes sessions idle for longer than the timeout; how many. Called by whoever owns a timer.
  virtual int expire_idle_sessions() = 0;
  virtual EngineStats stats() const = 0;

  /// What real-time mode was granted and refused; empty where it was not asked for.
  virtual std::span<const RealtimeGrant> realtime() const { return {}; }
};

}  // namespace cortex
