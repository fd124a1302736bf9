#include "serve/unix_path.h"

#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace cortex {

Result<void> claim_unix_path(const std::string& path) {
  const auto wrong = [&](ErrorCode code, std::string_view why) {
    return Error{code, fmt::format("cannot listen on {}: {}", path, why), "unix"};
  };
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return wrong(ErrorCode::invalid_argument,
                 fmt::format("a socket's path has at most {} bytes", sizeof address.sun_path - 1));
  std::memcpy(address.sun_path, path.data(), path.size());
  struct stat s {};
  if (::lstat(path.c_str(), &s) != 0) return {};
  if (!S_ISSOCK(s.st_mode)) return wrong(ErrorCode::io_error, "something lies there already");
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool taken =
      ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 ||
      errno != ECONNREFUSED;
  if (probe >= 0) ::close(probe);
  if (taken) return wrong(ErrorCode::io_error, "another process listens on it");
  if (::unlink(path.c_str()) != 0) return wrong(ErrorCode::io_error, std::strerror(errno));
  return {};
}

std::string unix_peer(int fd) {
  ucred who{};
  socklen_t size = sizeof who;
  if (::getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) return "unix";
  return fmt::format("unix:{}", who.uid);
}

}  // namespace cortex
