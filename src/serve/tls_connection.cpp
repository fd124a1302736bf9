#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <utility>

#include "serve/beast_http.h"
#include "serve/tls.h"

namespace cortex {
namespace {

class TlsContextImpl final : public TlsContext {
 public:
  asio::ssl::context context{asio::ssl::context::tls_server};
};

/// Keeps what it needs of its context, which a reload may replace.
using TlsStream = asio::ssl::stream<PlainStream>;

Error wrong(const std::string& path, const char* field, const beast::error_code& ec) {
  return {ErrorCode::invalid_argument, fmt::format("{}: {}", path, ec.message()), field};
}

}  // namespace

template <>
struct StreamTraits<TlsStream> {
  static PlainStream& socket(TlsStream& stream) { return stream.next_layer(); }
  template <class Done>
  static void handshake(TlsStream& stream, Done done) {
    stream.async_handshake(asio::ssl::stream_base::server, std::move(done));
  }
  template <class Done>
  static void end_sending(TlsStream& stream, Done done) {
    stream.async_shutdown(std::move(done));
  }
};

Result<std::shared_ptr<TlsContext>> load_tls(const std::string& cert, const std::string& key) {
  auto made = std::make_shared<TlsContextImpl>();
  asio::ssl::context& context = made->context;
  using ssl = asio::ssl::context;
  beast::error_code ec;
  context.set_options(ssl::default_workarounds | ssl::no_sslv2 | ssl::no_sslv3 | ssl::no_tlsv1 |
                          ssl::no_tlsv1_1 | ssl::single_dh_use | ssl::no_compression |
                          static_cast<ssl::options>(SSL_OP_NO_RENEGOTIATION),
                      ec);
  if (!ec) context.use_certificate_chain_file(cert, ec);
  if (ec) return wrong(cert, "tls-cert", ec);
  context.use_private_key_file(key, ssl::pem, ec);
  if (ec) return wrong(key, "tls-key", ec);
  if (SSL_CTX_check_private_key(context.native_handle()) != 1)
    return Error{ErrorCode::invalid_argument, fmt::format("{} is not the key of {}", key, cert),
                 "tls-key"};
  return std::shared_ptr<TlsContext>(std::move(made));
}

void start_tls_connection(ConnectionHost& host, PlainStream socket,
                          const std::shared_ptr<TlsContext>& context, Peer peer, bool turned_away) {
  TlsStream stream(std::move(socket), static_cast<TlsContextImpl&>(*context).context);
  std::make_shared<HttpConnection<TlsStream>>(host, std::move(stream), std::move(peer), turned_away)
      ->start();
}

}  // namespace cortex
