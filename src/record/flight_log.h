#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace cortex::record {

/// A step as it was recorded, and its answer where there is one.
struct RecordedStep {
  std::int64_t sequence = 0;
  std::int64_t gap = 0;
  bool best_effort = false;
  std::span<const std::byte> events = {};  ///< see FlightLog::events

  bool answered = false;
  StepStatus status = StepStatus::fresh;
  std::optional<ErrorCode> error = {};
  std::span<const std::byte> outputs = {};  ///< float32; empty where withheld
  std::int64_t submitted_ns = 0;            ///< CLOCK_MONOTONIC of the recording machine
  std::int64_t started_ns = 0;
  std::int64_t finished_ns = 0;
};

struct RecordedSession {
  SessionId id = 0;
  SessionOptions options = {};           ///< units, first step, what happens to events out of step
  std::int64_t opened_ns = 0;            ///< CLOCK_MONOTONIC
  bool is_closed = false;                ///< false: the log ends, or it expired
  std::vector<RecordedStep> steps = {};  ///< ascending; what is missing between them was lost
};

/// What a flight recorder wrote.
struct FlightLog {
  std::string name;  ///< its file
  std::string cortex;
  ModelInfo model;           ///< path, digest, kind, preset, precision, backend, clock, outputs
  std::int64_t wall_ns = 0;  ///< since 1970, when the log began
  std::int64_t monotonic_ns = 0;  ///< of the same moment
  std::vector<RecordedSession> sessions;
  std::int64_t lost = 0;  ///< steps and answers that the recorder says are missing
  std::int64_t blocks = 0;
  std::optional<std::string> cut;  ///< where the log ends in the middle of a block; else nothing
  bool ended = false;              ///< by itself; false: its server was killed, or writes it still
  std::shared_ptr<const void> memory;  ///< what the spans point into

  const RecordedSession* find(SessionId id) const;
  /// What is known to be missing, for a person, a line each; empty: nothing is.
  std::vector<std::string> gaps() const;
};

std::vector<Event> events_of(const RecordedStep& step);
std::vector<float> outputs_of(const RecordedStep& step);

/// not_found; corrupt_data: not a flight log, nothing whole in it, or a block in the middle that is
/// not what was written: the message names the byte and the block. A log whose end was never synced
/// is read up to there, see FlightLog::cut.
Result<FlightLog> read_flight_log(const std::string& path);
/// The same of bytes in memory, which outlive the log; `name` stands for the path in messages.
Result<FlightLog> parse_flight_log(std::span<const std::byte> bytes, const std::string& name);

}  // namespace cortex::record
