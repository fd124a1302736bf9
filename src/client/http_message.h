#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace cortex {

/// A response as far as it was read: the views point into the text that was given.
struct HttpReply {
  int status = 0;
  std::string_view head;  ///< status line and headers
  std::string_view body;
  bool keep_alive = true;
  std::size_t size = 0;  ///< of the whole message

  /// A header's value without the spaces around it; empty where there is none.
  std::string_view header(std::string_view name) const;
};

/// The response that `text` begins with; nothing where it is not complete yet. `is_end`: no more
/// will come, which ends a body without a length. corrupt_data: not HTTP/1.1, or a transfer coding,
/// which the server never uses.
Result<std::optional<HttpReply>> parse_http_reply(std::string_view text, bool is_end = false);

/// One request of HTTP/1.1. An empty `body` has no Content-Type.
std::string http_request(std::string_view method, std::string_view path, std::string_view authority,
                         std::string_view api_key, std::string_view body, bool keep_alive);

}  // namespace cortex
