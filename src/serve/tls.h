#pragma once

#include <cortex/result.h>

#include <memory>
#include <string>

#include "serve/beast_stream.h"
#include "serve/connection.h"

namespace cortex {

/// The certificate and the settings of a TLS server: TLS 1.2 and above, the ciphers of OpenSSL's
/// default list, no renegotiation, no compression.
class TlsContext {
 public:
  virtual ~TlsContext() = default;
};

/// invalid_argument names the file that cannot be read, is not PEM, or does not fit the other.
Result<std::shared_ptr<TlsContext>> load_tls(const std::string& cert, const std::string& key);

/// Talks TLS on an accepted socket from now on.
void start_tls_connection(ConnectionHost& host, PlainStream socket,
                          const std::shared_ptr<TlsContext>& context, Peer peer, bool turned_away);

}  // namespace cortex
