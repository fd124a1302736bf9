#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>

/// The client's side of RFC 6455 without a socket: bytes to send, bytes received.
namespace cortex::websocket {

enum class Opcode : std::uint8_t { text = 1, binary = 2, close = 8, ping = 9, pong = 10 };

/// A random Sec-WebSocket-Key.
std::string make_key();
/// The Sec-WebSocket-Accept that a server answers a key with.
std::string accept_of(std::string_view key);
std::string upgrade_request(std::string_view path, std::string_view authority, std::string_view key,
                            std::string_view api_key);

/// Frames of a client, which are masked.
class Writer {
 public:
  /// The frame, until the next call.
  std::string_view frame(Opcode opcode, std::string_view payload);

 private:
  std::minstd_rand mask_{std::random_device{}()};
  std::string out_;
};

struct Message {
  Opcode opcode = Opcode::text;
  std::string_view payload;
};

/// The code and reason of a close frame's payload; 1005 where it has none.
struct Closing {
  int code = 1005;
  std::string_view reason;
};
Closing parse_close(std::string_view payload);

/// Puts messages together out of a server's frames.
class Reader {
 public:
  explicit Reader(std::size_t most_bytes = std::size_t{64} << 20) : most_bytes_(most_bytes) {}

  struct Step {
    std::size_t consumed = 0;             ///< bytes of the text that are done with
    std::optional<Message> message = {};  ///< valid until the next call
  };
  /// Takes one frame off `text`, if a whole one is there; consumed == 0: more bytes are needed.
  /// corrupt_data: masked, of an unknown kind, out of place, or longer than `most_bytes`.
  Result<Step> next(std::string_view text);

 private:
  std::size_t most_bytes_;
  std::string parts_;  // of a message whose end has not come
  std::optional<Opcode> begun_;
};

}  // namespace cortex::websocket
