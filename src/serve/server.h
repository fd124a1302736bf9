#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

/// The network edge of one or more engines: HTTP and WebSocket on one thread.
///
///     auto server = cortex::Server::create({}).value_or_throw();
///     server->attach(engine);  // /ready turns from 503 to 200
///     server->run();           // until SIGTERM, SIGINT or stop(); drains
///
/// Or leave the loading to the server, which then can reload a model while it serves:
///
///     ServerOptions options;
///     options.models = {{"arm", "arm.safetensors"}, {"hand", "hand.safetensors"}};
///     options.make_engine = [](const NamedModel& m) {
///       return cortex::Engine::create({.model_path = m.path});
///     };
namespace cortex {

struct NamedModel {
  std::string name;  ///< letters, digits, '.', '_' and '-'
  std::string path;
};

/// What a flight recorder beside the engines has done.
struct RecordStats {
  std::int64_t written = 0;  ///< steps and answers that are on disk
  std::int64_t lost = 0;     ///< steps and answers that are not, and never will be
  std::int64_t bytes = 0;
  int failing = 0;  ///< files that cannot be written at present
};

using EngineFactory = std::function<Result<std::unique_ptr<Engine>>(const NamedModel& source)>;

struct ServerOptions {
  std::string host = "127.0.0.1";  ///< an address or "localhost"
  int port = 8080;                 ///< 0: the system picks one
  std::string unix_path = {};      ///< a Unix socket beside it; empty: none
  std::string api_key_file = {};   ///< empty: no key is asked for, loopback only
  std::string tls_cert = {};       ///< PEM, the whole chain; both or neither
  std::string tls_key = {};
  /// Origins of web pages that may talk to a server without keys, e.g. "http://localhost:3000".
  std::vector<std::string> allow_origins = {};
  /// Deadline of requests that name none. 0: a stream step's is the model's step and a late answer
  /// is handed over marked; /decode has none.
  double deadline_ms = 0;
  int max_tenants = 64;  ///< named in the key file, less one; EngineOptions::max_tenants
  int max_connections = 256;
  double max_rate = 50'000;        ///< requests and frames a second of one client; 0: no limit
  std::size_t max_body = 4 << 20;  ///< bytes of a request body or a WebSocket message
  int max_queued_steps = 4;        ///< of a session; EngineOptions::max_queued_steps
  double idle_timeout_s = 300;     ///< a connection between two requests
  double read_timeout_s = 10;      ///< a request or message, first byte to last
  double write_timeout_s = 10;     ///< an answer the client does not read
  double max_behind_s = 30;        ///< a session's oldest step without an answer; 0: no limit
  /// How long the network thread polls for an answer before it sleeps, after a request has gone to
  /// an engine; EngineOptions::busy_poll_us.
  int busy_poll_us = 0;
  double ping_s = 30;          ///< a WebSocket peer silent for this long is gone
  double drain_s = 5;          ///< the longest that a drain may take
  bool handle_signals = true;  ///< SIGTERM and SIGINT drain, a second one stops at once;
                               ///< SIGHUP reads keys and certificates again
  std::string otlp_url = {};   ///< http://HOST:PORT of an OTLP/HTTP collector; empty: no traces
  double trace_ratio = 0.01;   ///< of requests without a traceparent that are traced
  bool log_requests = false;   ///< a line for every HTTP request and session

  std::function<RecordStats()> record_stats = {};  ///< empty: nothing is recorded

  std::vector<NamedModel> models = {};  ///< loaded by run(), in this order; the first is default
  std::string repository = {};  ///< a folder: NAME.safetensors in it may be loaded under NAME
  EngineFactory make_engine = {};
  /// Network thread: a model has been loaded, or could not be.
  std::function<void(const NamedModel& source, const Result<Engine*>& outcome)> on_loaded = {};
};

class Server {
 public:
  /// Binds and listens. invalid_argument: an address that is not one, or one that is not loopback
  /// without API keys, or a key or certificate that cannot be used; io_error: the port or the
  /// socket's path is taken.
  static Result<std::unique_ptr<Server>> create(const ServerOptions& options);
  /// An attached engine must be gone or idle by now: it answers into the server's sockets.
  virtual ~Server() = default;

  virtual int port() const = 0;
  virtual std::string url() const = 0;  ///< "http://127.0.0.1:8080"

  /// Any thread, once. Serves an engine that the caller keeps. Until there is one /ready, /decode
  /// and /stream answer 503.
  virtual void attach(Engine& engine) = 0;
  /// Serves until stopped, then drains: accepted work is answered, sockets are closed.
  virtual void run() = 0;
  /// Any thread. Starts the drain.
  virtual void stop() = 0;
};

/// Whether an address is the machine's own loopback.
bool is_loopback(const std::string& host);

/// What a client sends: the first key in a file of keys.
Result<std::string> read_api_key(const std::string& path);

}  // namespace cortex
