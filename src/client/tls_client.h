#pragma once

#include <cortex/result.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "client/transfer.h"
#include "core/clock.h"

namespace cortex {

/// The client's side of TLS 1.2 and above on a connected descriptor that does not block.
class TlsClient {
 public:
  /// Shakes hands on `fd`, which stays the caller's, and checks that the certificate is one of
  /// `host`. `ca_file`: PEM of whom to trust; empty: whom the system trusts. invalid_argument: that
  /// file; unavailable: says what is wrong with the other side.
  static Result<std::unique_ptr<TlsClient>> connect(int fd, const std::string& host,
                                                    const std::string& ca_file, TimeNs until);
  virtual ~TlsClient() = default;
  virtual Transfer send(std::string_view bytes) = 0;
  virtual Transfer receive(std::span<char> into) = 0;
  /// Whether there is something to receive that the descriptor does not show.
  virtual bool has_pending() const = 0;
};

}  // namespace cortex
