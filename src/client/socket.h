#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "client/address.h"
#include "core/clock.h"

namespace cortex {

/// What came of a read or write that does not wait.
struct Transfer {
  std::size_t bytes = 0;
  bool would_block = false;
  std::string failed = {};  ///< why the connection is over; empty while it is not
};

/// A connected stream socket that never blocks but in wait(). Move-only.
class ClientSocket {
 public:
  ClientSocket() = default;
  explicit ClientSocket(int fd) : fd_(fd) {}
  ~ClientSocket() { close(); }
  ClientSocket(ClientSocket&& other) noexcept;
  ClientSocket& operator=(ClientSocket&& other) noexcept;

  /// unavailable: nobody listens there, or not by `until`. Names the address.
  static Result<ClientSocket> connect(const Address& address, const std::string& url, TimeNs until);

  Transfer send(std::string_view bytes) const;
  Transfer receive(std::span<char> into) const;
  /// Waits until it can be read (or written); false: not by `until`.
  bool wait_readable(TimeNs until) const;
  bool wait_writable(TimeNs until) const;

  int fd() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void close();

 private:
  int fd_ = -1;
};

}  // namespace cortex
