#pragma once

#include <cortex/engine.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "serve/api_error.h"

/// What travels over a stream's WebSocket, whichever way it is written.
namespace cortex {

/// How a client that wants more than the defaults starts its session.
struct OpenFrame {
  SessionOptions options;
  std::string model = {};             ///< empty: as the URL says
  std::optional<double> deadline_ms;  ///< of every step that names none
  std::optional<bool> best_effort;
};

struct StepFrame {
  std::int64_t sequence = 0;
  std::span<const Event> events;
  std::int64_t gap = 0;
  std::optional<double> deadline_ms;
  std::optional<bool> best_effort;
};

struct StreamFrame {
  enum class Kind { step, open, close };
  Kind kind = Kind::step;
  StepFrame step;
  OpenFrame open;
};

struct StepReply {
  std::int64_t sequence = 0;
  StepStatus status = StepStatus::fresh;
  std::span<const float> behavior;
  std::int64_t latency_ns = 0;
  std::int64_t queue_wait_ns = 0;
  std::int64_t inference_ns = 0;
  /// Where the session asked for dropping.
  std::optional<std::int64_t> dropped_events;
};

struct OpenedReply {
  const ModelInfo& model;
  std::string_view name;
  SessionId session = 0;
  std::int64_t next_step = 0;
  std::size_t units = 0;
  int max_queued_steps = 1;
  double step_rate_hz = 0;
};

/// The longest deadline and the largest whole number that a frame may name. Beyond the latter a
/// JSON number is not a whole number in every client.
inline constexpr double kMaxDeadlineMs = 86'400'000;
inline constexpr std::int64_t kMaxWhole = std::int64_t{1} << 53;
inline constexpr std::size_t kMaxUnits = 100'000;
inline constexpr std::size_t kMaxIdLength = 256;
/// Steps a second that a session may declare.
inline constexpr double kMaxRateHz = 1e6;

namespace json_frames {

void answer(std::string& out, const StepReply& reply);
void opened(std::string& out, const OpenedReply& reply);
void closed(std::string& out, const SessionSummary& summary);
void error(std::string& out, const ApiError& error, std::optional<std::int64_t> sequence);

}  // namespace json_frames
}  // namespace cortex
