#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "serve/stream_frames.h"

/// The binary frames of /v1/stream, byte by byte in docs/protocol.md.
namespace cortex {

/// As FrameParser::stream(), of a binary frame: the same values, the same errors. Keeps its buffer
/// of events from call to call; a step allocates nothing once that has grown.
class BinaryParser {
 public:
  Result<StreamFrame> stream(std::string_view bytes);
  std::optional<std::int64_t> last_sequence() const { return sequence_; }

 private:
  Result<StreamFrame> step(std::string_view bytes);
  Result<StreamFrame> open(std::string_view bytes);

  std::vector<Event> events_;
  std::optional<std::int64_t> sequence_;
};

/// Each writes a whole frame to `out`, whose room is used again.
namespace binary_frames {

void answer(std::string& out, const StepReply& reply);
void opened(std::string& out, const OpenedReply& reply);
void closed(std::string& out, const SessionSummary& summary);
void error(std::string& out, const ApiError& error, std::optional<std::int64_t> sequence);

}  // namespace binary_frames
}  // namespace cortex
