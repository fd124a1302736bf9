#pragma once

#include <cortex/result.h>

#include <string>

namespace cortex {

/// Makes way for a Unix socket at `path`: removes a socket that nobody listens on any more.
/// io_error where somebody does, or where something else lies there.
Result<void> claim_unix_path(const std::string& path);

/// The user at the other end of a connected Unix socket, e.g. "unix:1000".
std::string unix_peer(int fd);

}  // namespace cortex
