#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

/// A TCP socket without manners, for what a well-behaved client library cannot do.
namespace cortex::testing {

/// Long enough for a sanitizer on a busy machine; only a hang gets there.
inline constexpr int kPatienceMs = 30'000;

class RawClient {
 public:
  explicit RawClient(int port, int receive_buffer = 0) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    if (receive_buffer > 0)
      ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  /// Over a Unix socket.
  explicit RawClient(const std::string& path) : fd_(::socket(AF_UNIX, SOCK_STREAM, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
    connected_ = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
  }
  ~RawClient() { close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  bool connected() const { return connected_; }
  /// Every send leaves in a packet of its own.
  void set_no_delay() {
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<std::size_t>(n));
    }
    return true;
  }
  /// As much as fits without waiting for the other side.
  std::size_t send_some(std::string_view bytes) {
    const auto n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    return n > 0 ? static_cast<std::size_t>(n) : 0;
  }
  void shutdown_send() { ::shutdown(fd_, SHUT_WR); }
  /// Closes with a reset, as a killed process with unread data does.
  void reset() {
    const linger now{1, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    close();
  }
  void close() {
    if (fd_ >= 0) ::close(std::exchange(fd_, -1));
  }

  /// Everything until `marker` has come (kept for later: what follows it), or the end.
  std::string read_until(std::string_view marker) {
    for (;;) {
      const auto at = pending_.find(marker);
      if (at != std::string::npos) {
        std::string out = pending_.substr(0, at + marker.size());
        pending_.erase(0, at + marker.size());
        return out;
      }
      if (!fill()) return std::exchange(pending_, {});
    }
  }
  std::string read_exactly(std::size_t n) {
    while (pending_.size() < n && fill()) {
    }
    std::string out = pending_.substr(0, n);
    pending_.erase(0, out.size());
    return out;
  }
  std::string read_to_end() {
    while (fill()) {
    }
    return std::exchange(pending_, {});
  }
  /// One response of HTTP: head and body together.
  std::string read_response() {
    std::string head = read_until("\r\n\r\n");
    // Not that of Inference-Header-Content-Length.
    const auto at = head.find("\r\nContent-Length: ");
    if (at != std::string::npos) head += read_exactly(std::stoul(head.substr(at + 18)));
    return head;
  }
  /// Whether the server closes the connection within the patience of a test.
  bool closed_by_server() {
    while (fill()) {
    }
    return ended_;
  }
  /// Whether it has done so already.
  bool closed_by_server_now() {
    pollfd p{fd_, POLLOUT, 0};
    return ::poll(&p, 1, 20) == 1 && (p.revents & (POLLERR | POLLHUP)) != 0;
  }

  // The client's half of a WebSocket, good enough for short frames.

  bool upgrade(std::string_view extra_headers = {}, std::string_view path = "/stream") {
    send("GET " + std::string(path) +
         " HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
         "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
         std::string(extra_headers) + "\r\n");
    return read_until("\r\n\r\n").find(" 101 ") != std::string::npos;
  }
  static std::string frame(std::string_view text, unsigned char opcode = 1) {
    std::string out(1, static_cast<char>(0x80 | opcode));
    if (text.size() < 126) {
      out += static_cast<char>(0x80 | text.size());
    } else if (text.size() < 65536) {
      out += static_cast<char>(0x80 | 126);
      out += static_cast<char>(text.size() >> 8);
      out += static_cast<char>(text.size() & 255);
    } else {
      out += static_cast<char>(0x80 | 127);
      for (int shift = 56; shift >= 0; shift -= 8)
        out += static_cast<char>((std::uint64_t{text.size()} >> shift) & 255);
    }
    out.append(4, '\0');  // a mask of zeros leaves the text as it is
    out += text;
    return out;
  }
  /// The payload of the next frame; `opcode` of the last one read is kept.
  std::string read_frame() {
    const std::string head = read_exactly(2);
    if (head.size() < 2) return {};
    opcode_ = head[0] & 15;
    std::size_t n = static_cast<unsigned char>(head[1]) & 127;
    if (n == 126) {
      const std::string more = read_exactly(2);
      n = static_cast<std::size_t>(static_cast<unsigned char>(more[0])) << 8 |
          static_cast<unsigned char>(more[1]);
    }
    return read_exactly(n);
  }
  int opcode() const { return opcode_; }

 private:
  bool fill() {
    if (fd_ < 0 || ended_) return false;
    pollfd p{fd_, POLLIN, 0};
    if (::poll(&p, 1, kPatienceMs) <= 0) return false;
    char chunk[4096];
    const auto n = ::recv(fd_, chunk, sizeof chunk, 0);
    if (n <= 0) {
      ended_ = true;
      return false;
    }
    pending_.append(chunk, static_cast<std::size_t>(n));
    return true;
  }

  int fd_ = -1;
  bool connected_ = false;
  bool ended_ = false;
  int opcode_ = 0;
  std::string pending_;
};

}  // namespace cortex::testing
