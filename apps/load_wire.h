#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "load_events.h"
#include "load_options.h"
#include "load_port.h"

namespace cortex {

/// What a port writes and reads: requests and replies as bytes.
class LoadWire {
 public:
  struct Read {
    std::size_t consumed = 0;             ///< 0: the bytes hold no whole reply yet
    std::optional<LoadReply> reply = {};  ///< valid until the next call
    bool reconnect = false;               ///< the server closes the connection after this reply
    std::string to_send = {};             ///< at once, e.g. a pong
  };

  virtual ~LoadWire() = default;
  virtual std::string_view request(const LoadRequest& request) = 0;
  /// Ends a session in good order; empty where there is nothing to say.
  virtual std::string_view farewell() { return {}; }
  /// corrupt_data: not a reply.
  virtual Result<Read> read(std::string_view bytes) = 0;
};

/// Frames of /stream or /v1/stream.
std::unique_ptr<LoadWire> make_frame_wire(const LoadOptions& options);

/// Requests to /decode, written beforehand: one a window, all of one length.
class HttpBodies {
 public:
  HttpBodies(LoadEvents& events, const LoadOptions& options, const std::string& authority);
  std::string_view request(int window) const { return requests_[static_cast<std::size_t>(window)]; }

 private:
  std::vector<std::string> requests_;
};
std::unique_ptr<LoadWire> make_http_wire(const HttpBodies& bodies);

}  // namespace cortex
