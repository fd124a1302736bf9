#pragma once

#include <cortex/engine.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>

namespace cortex {

struct LoadRequest {
  std::int64_t sequence = 0;  ///< of a step
  std::span<const Event> events = {};
  int window = 0;  ///< which of LoadEvents's windows these are
};

struct LoadReply {
  std::string error = {};  ///< its code; empty for an answer
  std::string message = {};
  std::int64_t sequence = 0;
  std::span<const float> behavior = {};  ///< valid during the call; empty where withheld
  StepStatus status = StepStatus::fresh;
  double latency_ms = 0;  ///< as the server says
};

/// One session, or one connection for windows. Replies come in the order of the requests, during
/// the poller's wait.
class LoadPort {
 public:
  virtual ~LoadPort() = default;
  virtual void send(const LoadRequest& request) = 0;
  /// Ends the session in good order; its last reply has come.
  virtual void close() = 0;

  std::function<void(const LoadReply&)> on_reply;
  /// Requests without a reply will have none. The port is of no use any more.
  std::function<void(const std::string& why)> on_lost;
};

}  // namespace cortex
