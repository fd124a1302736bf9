#include "client/socket.h"

#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <utility>

#include "client/wait_for.h"

namespace cortex {
namespace {

constexpr TimeNs kMillisecond = 1'000'000;

Error cannot_connect(const std::string& url, std::string_view why) {
  return {ErrorCode::unavailable, fmt::format("cannot connect to {}: {}", url, why), "url"};
}

/// The errno of connecting, 0 for success.
int connect_to(int fd, const sockaddr* address, socklen_t size, TimeNs until) {
  // A Unix socket whose backlog is full says EAGAIN and has nothing to wait for.
  for (;;) {
    if (::connect(fd, address, size) == 0) return 0;
    if (errno != EAGAIN) break;
    if (RealClock::instance().now() + kMillisecond > until) return ETIMEDOUT;
    ::usleep(1000);
  }
  if (errno != EINPROGRESS && errno != EINTR) return errno;
  if (!wait_for(fd, POLLOUT, until)) return ETIMEDOUT;
  int outcome = 0;
  socklen_t length = sizeof outcome;
  ::getsockopt(fd, SOL_SOCKET, SO_ERROR, &outcome, &length);
  return outcome;
}

Result<ClientSocket> connect_unix(const std::string& path, const std::string& url, TimeNs until) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: the path of a socket has at most {} bytes", url,
                             sizeof address.sun_path - 1),
                 "url"};
  std::memcpy(address.sun_path, path.data(), path.size());
  ClientSocket socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!socket.is_open()) return cannot_connect(url, std::strerror(errno));
  const int failed =
      connect_to(socket.fd(), reinterpret_cast<sockaddr*>(&address), sizeof address, until);
  if (failed != 0) return cannot_connect(url, std::strerror(failed));
  return socket;
}

Result<ClientSocket> connect_tcp(const Address& address, const std::string& url, TimeNs until) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(address.host.c_str(), address.port.c_str(), &hints, &found);
  if (failed != 0) return cannot_connect(url, ::gai_strerror(failed));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> list(found, ::freeaddrinfo);
  int last = 0;
  for (const addrinfo* a = list.get(); a != nullptr; a = a->ai_next) {
    ClientSocket socket(::socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.is_open()) {
      last = errno;
      continue;
    }
    last = connect_to(socket.fd(), a->ai_addr, a->ai_addrlen, until);
    if (last != 0) continue;
    const int on = 1;
    ::setsockopt(socket.fd(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return socket;
  }
  return cannot_connect(url, std::strerror(last));
}

Transfer outcome_of(ssize_t n) {
  if (n > 0) return {.bytes = static_cast<std::size_t>(n)};
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
    return {.would_block = true};
  return {.failed = n == 0 ? "the other side closed it" : std::strerror(errno)};
}

}  // namespace

ClientSocket::ClientSocket(ClientSocket&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), tls_(std::move(other.tls_)) {}

ClientSocket& ClientSocket::operator=(ClientSocket&& other) noexcept {
  if (this != &other) {
    close();
    fd_ = std::exchange(other.fd_, -1);
    tls_ = std::move(other.tls_);
  }
  return *this;
}

Result<ClientSocket> ClientSocket::connect(const Address& address, const std::string& url,
                                           const std::string& ca_file, TimeNs until) {
  auto socket =
      address.is_unix() ? connect_unix(address.path, url, until) : connect_tcp(address, url, until);
  if (!socket || !address.is_tls) return socket;
  auto tls = TlsClient::connect(socket->fd(), address.host, ca_file, until);
  if (!tls) {
    if (tls.error().code == ErrorCode::invalid_argument) return tls.error();
    return cannot_connect(url, tls.error().message);
  }
  socket->tls_ = *std::move(tls);
  return socket;
}

Transfer ClientSocket::send(std::string_view bytes) const {
  if (tls_) return tls_->send(bytes);
  return outcome_of(::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL));
}

Transfer ClientSocket::receive(std::span<char> into) const {
  if (tls_) return tls_->receive(into);
  return outcome_of(::recv(fd_, into.data(), into.size(), 0));
}

bool ClientSocket::wait_readable(TimeNs until) const { return wait_for(fd_, POLLIN, until); }
bool ClientSocket::wait_writable(TimeNs until) const { return wait_for(fd_, POLLOUT, until); }

void ClientSocket::close() {
  tls_.reset();
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

}  // namespace cortex
