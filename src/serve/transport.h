#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/clock.h"

/// What the routes see of the network: no socket, no Beast. Everything here runs on the network
/// thread.
namespace cortex {

struct HttpRequest {
  std::string method;
  std::string path;  ///< without the query
  std::string body = {};
  std::string content_type = {};
  std::string authorization = {};
  TimeNs arrived_ns = 0;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
};

/// Called exactly once for a request, at once or later.
using Reply = std::function<void(HttpResponse)>;

/// The other end of a WebSocket, as its handler sees it.
class SocketPeer {
 public:
  virtual ~SocketPeer() = default;
  virtual void send(std::string text) = 0;
  /// The handler has room again for the message that it left.
  virtual void resume() = 0;
  /// Sends what is queued, then closes.
  virtual void close(std::uint16_t code, std::string_view reason) = 0;
};

struct SocketMessage {
  std::string_view text;
  bool is_text = true;
  TimeNs arrived_ns = 0;
};

class SocketHandler {
 public:
  virtual ~SocketHandler() = default;
  virtual void on_open(SocketPeer& peer) = 0;
  /// False: no room now; the transport keeps the message, reads no further, and offers it again
  /// when the handler calls resume().
  virtual bool on_message(const SocketMessage& message) = 0;
  /// The server drains: answer what was accepted, then close.
  virtual void on_drain() = 0;
  /// The peer is gone and must not be used again.
  virtual void on_closed() = 0;
};

}  // namespace cortex
