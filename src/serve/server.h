#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <cstddef>
#include <memory>
#include <string>

/// The network edge of an engine: HTTP and WebSocket on one thread.
///
///     auto server = cortex::Server::create({}).value_or_throw();
///     server->attach(engine);  // /ready turns from 503 to 200
///     server->run();           // until SIGTERM, SIGINT or stop(); drains
namespace cortex {

struct ServerOptions {
  std::string host = "127.0.0.1";  ///< an address or "localhost"
  int port = 8080;                 ///< 0: the system picks one
  std::string api_key = {};        ///< empty: none asked for, loopback only
  /// Deadline of requests that name none. 0: a stream step's is the model's step and a late answer
  /// is handed over marked; /decode has none.
  double deadline_ms = 0;
  int max_connections = 256;
  std::size_t max_body = 4 << 20;  ///< bytes of a request body or a WebSocket message
  int max_queued_steps = 4;        ///< of a session; EngineOptions::max_queued_steps
  double idle_timeout_s = 300;     ///< a connection between two requests
  double read_timeout_s = 10;      ///< a request or message, first byte to last
  double write_timeout_s = 10;     ///< an answer the client does not read
  double ping_s = 30;              ///< a WebSocket peer silent for this long is gone
  double drain_s = 5;              ///< the longest that a drain may take
  bool handle_signals = true;      ///< SIGTERM and SIGINT drain; a second one stops at once
};

class Server {
 public:
  /// Binds and listens. invalid_argument: an address that is not one, or one that is not loopback
  /// without an API key; io_error: the port is taken.
  static Result<std::unique_ptr<Server>> create(const ServerOptions& options);
  /// The engine must be gone or idle by now: it answers into the server's sockets.
  virtual ~Server() = default;

  virtual int port() const = 0;
  virtual std::string url() const = 0;  ///< "http://127.0.0.1:8080"

  /// Any thread, once. Until then /ready, /decode and /stream answer 503.
  virtual void attach(Engine& engine) = 0;
  /// Serves until stopped, then drains: accepted work is answered, sockets are closed.
  virtual void run() = 0;
  /// Any thread. Starts the drain.
  virtual void stop() = 0;
};

/// Whether an address is the machine's own loopback.
bool is_loopback(const std::string& host);

/// The key in a file: its first line, without the spaces around it.
Result<std::string> read_api_key(const std::string& path);

}  // namespace cortex
