#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/clock.h"
#include "serve/auth.h"
#include "serve/request_trace.h"

/// What the routes see of the network: no socket, no Beast. Everything here runs on the network
/// thread.
namespace cortex {

/// Who is at the other end of a connection.
struct Peer {
  std::string address;  ///< "10.0.0.7", or "unix:1000", a user on this machine
};

struct HttpRequest {
  std::string method;
  std::string path;        ///< without the query
  std::string query = {};  ///< without the question mark
  std::string body = {};
  std::string content_type = {};
  std::string authorization = {};
  std::string origin = {};
  std::string host = {};
  std::string traceparent = {};
  std::string request_id = {};   ///< the client's, or one that the server made up
  std::string json_length = {};  ///< Inference-Header-Content-Length
  Peer peer = {};
  Caller caller = {};  ///< whose API key it carries
  TimeNs arrived_ns = 0;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body = {};
  std::vector<std::pair<std::string, std::string>> headers = {};
  TracePtr trace = {};  ///< told when the last byte has been written
};

/// Called exactly once for a request, at once or later.
using Reply = std::function<void(HttpResponse)>;
/// Called at most once and before the answer: the client has gone, so what waits for it may go too.
/// Empty where there is nothing to withdraw.
using Withdraw = std::function<void()>;

/// The other end of a WebSocket, as its handler sees it.
class SocketPeer {
 public:
  virtual ~SocketPeer() = default;
  /// Queues a message. `payload` holds a spent buffer afterwards, to be written into again, so that
  /// an exchange of messages settles on a few buffers.
  virtual void send(std::string& payload, bool is_text, TracePtr trace = {}) = 0;
  /// The handler has room again for the message that it left.
  virtual void resume() = 0;
  /// Sends what is queued, then closes.
  virtual void close(std::uint16_t code, std::string_view reason) = 0;
};

struct SocketMessage {
  std::string_view bytes;
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
  /// Called a few times a second.
  virtual void check(TimeNs now) = 0;
  /// The server drains: answer what was accepted, then close.
  virtual void on_drain() = 0;
  /// The peer is gone and must not be used again.
  virtual void on_closed() = 0;
};

}  // namespace cortex
