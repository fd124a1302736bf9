#pragma once

#include <cortex/engine.h>
#include <cortex/events.h>
#include <cortex/result.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "serve/stream_frames.h"

/// JSON in. Values are checked for type and for what no model could accept; ranges that depend on
/// the model are event_rules.h's. Unknown fields are ignored, a known field given twice is an
/// error.
namespace cortex {

struct DecodeFrame {
  std::string request_id;
  std::string session_id;
  std::string model;  ///< empty: as the URL says
  std::span<const Event> events;
  std::optional<double> deadline_ms;
  std::optional<bool> best_effort;
};

/// Keeps its buffers from call to call: the spans of a frame are valid until the next one.
class FrameParser {
 public:
  FrameParser();
  ~FrameParser();

  Result<DecodeFrame> decode(std::string_view json);
  Result<StreamFrame> stream(std::string_view json);
  /// The sequence_number of the last frame, even if the frame was refused.
  std::optional<std::int64_t> last_sequence() const { return sequence_; }

 private:
  struct Dom;
  std::unique_ptr<Dom> dom_;
  std::vector<Event> events_;
  std::optional<std::int64_t> sequence_;
};

}  // namespace cortex
