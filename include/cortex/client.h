#pragma once

#include <cortex/engine.h>
#include <cortex/events.h>
#include <cortex/result.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// A blocking client of `cortex serve`: one stream session over one WebSocket.
///
///     auto client = cortex::StreamClient::connect("http://127.0.0.1:8080");
///     auto info = (*client)->open({});
///     auto answer = (*client)->step({.sequence = info->next_sequence, .events = events});
///     auto summary = (*client)->close();
///
/// It ends with its connection; cortex/live_session.h keeps a stream through a server's death.
namespace cortex {

/// What the frames are written in. json: `/stream`, binary: `/v1/stream`.
enum class FrameFormat { json, binary };

struct ClientOptions {
  std::string api_key = {};
  std::string tls_ca_file = {};   ///< PEM of whom to trust, for https and wss; empty: the system
  double timeout_s = 30;          ///< the longest that one answer may take
  double connect_timeout_s = 10;  ///< the longest that connecting may take
  FrameFormat format = FrameFormat::json;
};

struct OpenOptions {
  SessionOptions session = {};
  std::optional<double> deadline_ms = {};
  std::optional<bool> best_effort = {};
  double rate_hz = 0;      ///< steps a second that will be sent; 0: one a step of the model
  std::string model = {};  ///< on a server of several; empty: its first
};

/// What the server said when the session opened.
struct StreamInfo {
  std::string session_id;
  std::string kind;  ///< "stream" or "window"
  std::string model;
  std::string preset;
  std::string precision;
  std::string digest;
  double bin_ms = 0;
  double step_ms = 0;
  int bins_per_step = 0;
  int units = 0;             ///< what Event::unit may be, from 0
  int max_events = 0;        ///< of a step or window
  int max_queued_steps = 1;  ///< frames worth sending ahead
  int window_steps = 0;
  int context_steps = 0;  ///< no answer depends on more than this many steps
  std::int64_t next_sequence = 0;
  double rate_hz = 0;  ///< steps a second that the server reserved
  double target_offset_ms = 0;
  std::vector<OutputInfo> outputs;
};

struct StreamStep {
  std::int64_t sequence = 0;
  std::int64_t gap = 0;  ///< silent steps before this one, which `sequence` counts
  std::span<const Event> events = {};
  std::optional<double> deadline_ms = {};
  std::optional<bool> best_effort = {};
};

struct StreamAnswer {
  std::int64_t sequence = 0;
  std::vector<float> behavior;  ///< [outputs]; empty when refused
  StepStatus status = StepStatus::fresh;
  double latency_ms = 0;
  double queue_wait_ms = 0;
  double inference_ms = 0;
  std::int64_t dropped_events = 0;
};

struct HttpAnswer {
  int status = 0;
  std::string body;
};

/// One thread at a time. An error of the server (a frame it refused) leaves the session usable;
/// `unavailable` says that the connection is lost and which step had not been answered.
class StreamClient {
 public:
  /// `url`: http://HOST:PORT or ws://HOST:PORT, with an s for TLS (a path is ignored), or unix:PATH
  /// of a socket.
  static Result<std::unique_ptr<StreamClient>> connect(const std::string& url,
                                                       const ClientOptions& options = {});
  virtual ~StreamClient() = default;

  virtual Result<StreamInfo> open(const OpenOptions& options) = 0;
  virtual Result<StreamAnswer> step(const StreamStep& step) = 0;
  /// The two halves of step(), to send ahead: answers come in the order of their steps.
  virtual Result<void> send(const StreamStep& step) = 0;
  virtual Result<StreamAnswer> receive() = 0;
  /// Ends the session. Every step that was sent must have been received.
  virtual Result<SessionSummary> close() = 0;
};

/// One request on a connection of its own, e.g. http_get("http://127.0.0.1:8080", "/ready").
Result<HttpAnswer> http_get(const std::string& url, const std::string& path,
                            const ClientOptions& options = {});
Result<HttpAnswer> http_post(const std::string& url, const std::string& path,
                             const std::string& json, const ClientOptions& options = {});

}  // namespace cortex
