#include "client/tls_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstring>

#include "client/wait_for.h"

namespace cortex {
namespace {

struct Free {
  void operator()(SSL* ssl) const { ::SSL_free(ssl); }
  void operator()(SSL_CTX* context) const { ::SSL_CTX_free(context); }
};

std::string last_error() {
  const unsigned long code = ::ERR_get_error();
  const char* reason = code == 0 ? nullptr : ::ERR_reason_error_string(code);
  if (reason != nullptr) return reason;
  return errno == 0 ? "the other side closed it" : std::strerror(errno);
}

void clear_errors() {
  ::ERR_clear_error();
  errno = 0;
}

// OpenSSL's own socket BIO lets a peer that is gone raise SIGPIPE, which ends the caller's program.

int fd_of(BIO* bio) {
  return static_cast<int>(reinterpret_cast<std::intptr_t>(::BIO_get_data(bio)));
}

int settle(BIO* bio, ssize_t n, int retry) {
  BIO_clear_retry_flags(bio);
  if (n < 0 && (errno == EAGAIN || errno == EINTR))
    ::BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
  return static_cast<int>(n);
}
int write_bio(BIO* bio, const char* bytes, int n) {
  return settle(bio, ::send(fd_of(bio), bytes, static_cast<std::size_t>(n), MSG_NOSIGNAL),
                BIO_FLAGS_WRITE);
}
int read_bio(BIO* bio, char* into, int n) {
  return settle(bio, ::recv(fd_of(bio), into, static_cast<std::size_t>(n), 0), BIO_FLAGS_READ);
}
long control_bio(BIO*, int command, long, void*) { return command == BIO_CTRL_FLUSH ? 1 : 0; }

const BIO_METHOD* quiet_socket() {
  static BIO_METHOD* const method = [] {
    BIO_METHOD* m = ::BIO_meth_new(::BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "quiet socket");
    ::BIO_meth_set_write(m, write_bio);
    ::BIO_meth_set_read(m, read_bio);
    ::BIO_meth_set_ctrl(m, control_bio);
    return m;
  }();
  return method;
}

bool is_ip(const std::string& host) {
  in6_addr bytes{};
  return ::inet_pton(AF_INET, host.c_str(), &bytes) == 1 ||
         ::inet_pton(AF_INET6, host.c_str(), &bytes) == 1;
}

int length_of(std::size_t bytes) { return static_cast<int>(std::min<std::size_t>(bytes, INT_MAX)); }

class TlsClientImpl final : public TlsClient {
 public:
  Result<void> trust(const std::string& ca_file) {
    ::SSL_CTX_set_min_proto_version(context_.get(), TLS1_2_VERSION);
    ::SSL_CTX_set_mode(context_.get(),
                       SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    ::SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
    const int loaded =
        ca_file.empty() ? ::SSL_CTX_set_default_verify_paths(context_.get())
                        : ::SSL_CTX_load_verify_locations(context_.get(), ca_file.c_str(), nullptr);
    if (loaded == 1) return {};
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: no certificates to trust: {}", ca_file, last_error()),
                 "tls_ca_file"};
  }

  Result<void> shake_hands(int fd, const std::string& host, TimeNs until) {
    ssl_.reset(::SSL_new(context_.get()));
    BIO* const bio = ::BIO_new(quiet_socket());
    ::BIO_set_data(bio, reinterpret_cast<void*>(static_cast<std::intptr_t>(fd)));
    ::BIO_set_init(bio, 1);
    ::SSL_set_bio(ssl_.get(), bio, bio);
    if (is_ip(host)) {
      ::X509_VERIFY_PARAM_set1_ip_asc(::SSL_get0_param(ssl_.get()), host.c_str());
    } else {
      ::SSL_set1_host(ssl_.get(), host.c_str());
      ::SSL_set_tlsext_host_name(ssl_.get(), host.c_str());
    }
    for (;;) {
      clear_errors();
      const int done = ::SSL_connect(ssl_.get());
      if (done == 1) return {};
      const int why = ::SSL_get_error(ssl_.get(), done);
      if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
        if (wait_for(fd, why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, until)) continue;
        return refused("timed out");
      }
      const long verified = ::SSL_get_verify_result(ssl_.get());
      return refused(verified == X509_V_OK ? last_error()
                                           : ::X509_verify_cert_error_string(verified));
    }
  }

  Transfer send(std::string_view bytes) override {
    clear_errors();
    return outcome_of(::SSL_write(ssl_.get(), bytes.data(), length_of(bytes.size())));
  }
  Transfer receive(std::span<char> into) override {
    clear_errors();
    return outcome_of(::SSL_read(ssl_.get(), into.data(), length_of(into.size())));
  }
  bool has_pending() const override { return ::SSL_pending(ssl_.get()) > 0; }

 private:
  static Error refused(const std::string& why) {
    return {ErrorCode::unavailable, "TLS: " + why, "url"};
  }

  Transfer outcome_of(int n) {
    if (n > 0) return {.bytes = static_cast<std::size_t>(n)};
    const int why = ::SSL_get_error(ssl_.get(), n);
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) return {.would_block = true};
    if (why == SSL_ERROR_ZERO_RETURN) return {.failed = "the other side closed it"};
    return {.failed = "TLS: " + last_error()};
  }

  std::unique_ptr<SSL_CTX, Free> context_{::SSL_CTX_new(::TLS_client_method())};
  std::unique_ptr<SSL, Free> ssl_;
};

}  // namespace

Result<std::unique_ptr<TlsClient>> TlsClient::connect(int fd, const std::string& host,
                                                      const std::string& ca_file, TimeNs until) {
  auto client = std::make_unique<TlsClientImpl>();
  if (const auto trusted = client->trust(ca_file); !trusted) return trusted.error();
  if (const auto shaken = client->shake_hands(fd, host, until); !shaken) return shaken.error();
  return std::unique_ptr<TlsClient>(std::move(client));
}

}  // namespace cortex
