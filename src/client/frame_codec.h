#pragma once

#include <cortex/client.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "client/websocket.h"

namespace cortex {

/// A frame that the server refused, or a session that it lost.
struct Refusal {
  Error error;
  int status = 0;  ///< as of HTTP
  std::optional<std::int64_t> sequence = {};
  std::optional<std::int64_t> expected = {};  ///< the sequence that would have been right
};

using ServerFrame = std::variant<StreamInfo, StreamAnswer, SessionSummary, Refusal>;

/// The frames of docs/protocol.md. What is written stays valid until the next call.
class FrameCodec {
 public:
  virtual ~FrameCodec() = default;
  virtual const char* path() const = 0;  ///< of the WebSocket
  virtual websocket::Opcode opcode() const = 0;
  virtual std::string_view open(const OpenOptions& options) = 0;
  virtual std::string_view step(const StreamStep& step) = 0;
  virtual std::string_view close() = 0;
  /// corrupt_data: not a frame of the protocol.
  virtual Result<ServerFrame> parse(std::string_view frame) = 0;
};

std::unique_ptr<FrameCodec> make_json_codec();
std::unique_ptr<FrameCodec> make_binary_codec();
std::unique_ptr<FrameCodec> make_codec(FrameFormat format);

/// The code of a name in an error; by its status where this client knows no such name.
ErrorCode error_code_of(std::string_view name, int status);

}  // namespace cortex
