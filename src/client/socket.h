#pragma once

#include <cortex/result.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "client/address.h"
#include "client/tls_client.h"
#include "client/transfer.h"
#include "core/clock.h"

namespace cortex {

/// A connected stream socket that never blocks but in wait(). Move-only.
class ClientSocket {
 public:
  ClientSocket() = default;
  explicit ClientSocket(int fd) : fd_(fd) {}
  ~ClientSocket() { close(); }
  ClientSocket(ClientSocket&& other) noexcept;
  ClientSocket& operator=(ClientSocket&& other) noexcept;

  /// unavailable: nobody listens there, or not by `until`, or not with a certificate that
  /// `ca_file` (as in TlsClient) vouches for. Names the address.
  static Result<ClientSocket> connect(const Address& address, const std::string& url,
                                      const std::string& ca_file, TimeNs until);

  Transfer send(std::string_view bytes) const;
  Transfer receive(std::span<char> into) const;
  /// Waits until it can be read (or written); false: not by `until`.
  bool wait_readable(TimeNs until) const;
  bool wait_writable(TimeNs until) const;

  /// Whether there is something to receive that waiting for fd() would not show.
  bool has_pending() const { return tls_ && tls_->has_pending(); }
  int fd() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }
  void close();

 private:
  int fd_ = -1;
  std::unique_ptr<TlsClient> tls_;  ///< where the address asked for it
};

}  // namespace cortex
