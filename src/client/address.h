#pragma once

#include <cortex/result.h>

#include <string>

namespace cortex {

/// Where a server listens: host and port, or the path of a Unix socket.
struct Address {
  std::string host = {};
  std::string port = {};
  std::string path = {};  ///< not empty: a Unix socket
  bool is_tls = false;

  bool is_unix() const { return !path.empty(); }
  /// For the Host header.
  std::string authority() const { return is_unix() ? "localhost" : host + ":" + port; }
};

/// http://HOST:PORT or ws://HOST:PORT, with an s for TLS (a path is ignored), or unix:PATH.
Result<Address> parse_url(const std::string& url);

}  // namespace cortex
