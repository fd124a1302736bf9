#include <gtest/gtest.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>

#include "serve/test_server.h"
#include "support/paths.h"

namespace cortex::testing {
namespace {

using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

/// A certificate that signs itself, and its key, as PEM files.
void write_identity(const std::string& cert_path, const std::string& key_path, long serial) {
  const Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  const Certificate cert(X509_new(), X509_free);
  X509_set_version(cert.get(), 2);
  ASN1_INTEGER_set(X509_get_serialNumber(cert.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(cert.get()), -3600);
  X509_gmtime_adj(X509_getm_notAfter(cert.get()), 3600);
  X509_NAME* name = X509_get_subject_name(cert.get());
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(cert.get(), name);
  X509_set_pubkey(cert.get(), key.get());
  X509_sign(cert.get(), key.get(), EVP_sha256());
  std::FILE* file = std::fopen(cert_path.c_str(), "w");
  PEM_write_X509(file, cert.get());
  std::fclose(file);
  file = std::fopen(key_path.c_str(), "w");
  PEM_write_PrivateKey(file, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  std::fclose(file);
}

class TlsClient {
 public:
  explicit TlsClient(int port, int lowest = TLS1_2_VERSION, int highest = 0)
      : context_(SSL_CTX_new(TLS_client_method()), SSL_CTX_free),
        ssl_(nullptr, SSL_free),
        fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    // Old versions need the lowest security level of OpenSSL itself.
    if (highest != 0) SSL_CTX_set_cipher_list(context_.get(), "ALL:@SECLEVEL=0");
    SSL_CTX_set_min_proto_version(context_.get(), lowest);
    SSL_CTX_set_max_proto_version(context_.get(), highest);
    ssl_.reset(SSL_new(context_.get()));
    const timeval patience{30, 0};
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return;
    SSL_set_fd(ssl_.get(), fd_);
    is_open_ = SSL_connect(ssl_.get()) == 1;
    ERR_clear_error();
  }
  ~TlsClient() {
    ssl_.reset();
    ::close(fd_);
  }
  TlsClient(const TlsClient&) = delete;
  TlsClient& operator=(const TlsClient&) = delete;

  bool is_open() const { return is_open_; }
  std::string version() const { return SSL_get_version(ssl_.get()); }
  long serial() const {
    const Certificate cert(SSL_get1_peer_certificate(ssl_.get()), X509_free);
    return ASN1_INTEGER_get(X509_get_serialNumber(cert.get()));
  }
  void send(const std::string& bytes) {
    SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()));
  }
  /// Until `marker` has come, or the end.
  std::string read_until(const std::string& marker) {
    char chunk[4096];
    while (text_.find(marker) == std::string::npos) {
      const int n = SSL_read(ssl_.get(), chunk, sizeof chunk);
      if (n <= 0) break;
      text_.append(chunk, static_cast<std::size_t>(n));
    }
    return std::exchange(text_, {});
  }

 private:
  std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context_;
  std::unique_ptr<SSL, decltype(&SSL_free)> ssl_;
  const int fd_;
  bool is_open_ = false;
  std::string text_;
};

class Tls : public ::testing::Test {
 protected:
  Tls() {
    write_identity(dir_.file("cert"), dir_.file("key"), 41);
    options_.tls_cert = dir_.file("cert");
    options_.tls_key = dir_.file("key");
  }
  const TempDir dir_;
  ServerOptions options_;
};

TEST_F(Tls, CarriesRequestsAndStreams) {
  TestServer server({}, options_);
  EXPECT_TRUE(server.url().starts_with("https://127.0.0.1:")) << server.url();
  TlsClient http(server.port());
  ASSERT_TRUE(http.is_open());
  for (int i = 0; i < 3; ++i) {
    http.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_TRUE(contains(http.read_until("\"}}"), "200 OK"));
  }
  TlsClient stream(server.port());
  stream.send(
      "GET /v1/stream HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
      "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n");
  EXPECT_TRUE(contains(stream.read_until("\r\n\r\n"), "101"));
  stream.send(RawClient::frame(step_frame(0, event(1, 0, 3))));
  EXPECT_TRUE(contains(stream.read_until("}"), "\"behavior\":[3,"));
}

TEST_F(Tls, HoweverARequestIsCutItsAnswerIsTheSame) {
  TestServer server({}, options_);
  TlsClient client(server.port());
  ASSERT_TRUE(client.is_open());
  const std::string body = decode_body(event(3, 2, 5));
  const std::string whole =
      "POST /decode HTTP/1.1\r\nHost: localhost\r\nContent-Length: " + std::to_string(body.size()) +
      "\r\n\r\n" + body;
  const auto expect_answer = [&](std::size_t cut) {
    const std::string answer = client.read_until("inference_ms");
    EXPECT_TRUE(contains(answer, "200 OK") && contains(answer, "\"behavior\":[5,2]"))
        << "cut at " << cut << ": " << answer;
  };
  client.send(whole);
  expect_answer(whole.size());
  for (const char c : whole) client.send({c});
  expect_answer(1);
  for (std::size_t cut = 1; cut < whole.size(); ++cut) {
    client.send(whole.substr(0, cut));
    client.send(whole.substr(cut));
    expect_answer(cut);
  }
  // Two in one record, and an end that tells whether both were answered.
  client.send(whole + whole);
  const std::string close = "GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  client.send(close);
  const std::string all = client.read_until("never");
  const auto first = all.find("\"behavior\":[5,2]");
  ASSERT_NE(first, std::string::npos) << all;
  EXPECT_NE(all.find("\"behavior\":[5,2]", first + 1), std::string::npos) << all;
}

TEST_F(Tls, OldVersionsAreRefused) {
  TestServer server({}, options_);
  EXPECT_FALSE(TlsClient(server.port(), TLS1_VERSION, TLS1_1_VERSION).is_open());
  const TlsClient twelve(server.port(), TLS1_2_VERSION, TLS1_2_VERSION);
  ASSERT_TRUE(twelve.is_open());
  EXPECT_EQ(twelve.version(), "TLSv1.2");
  const TlsClient thirteen(server.port(), TLS1_3_VERSION);
  ASSERT_TRUE(thirteen.is_open());
  EXPECT_EQ(thirteen.version(), "TLSv1.3");
}

TEST_F(Tls, AClientThatSpeaksPlainlyOrStallsIsGivenUp) {
  options_.read_timeout_s = 0.3;
  TestServer server({}, options_);
  RawClient plain(server.port());
  plain.send("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(plain.closed_by_server());
  RawClient silent(server.port());
  EXPECT_TRUE(silent.closed_by_server());
  RawClient stalled(server.port());
  stalled.send("\x16\x03\x01\x02");
  EXPECT_TRUE(stalled.closed_by_server());
  TlsClient good(server.port());
  ASSERT_TRUE(good.is_open());
  good.send("GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_TRUE(contains(good.read_until("\"}}"), "200 OK"));
}

TEST_F(Tls, AClientThatVanishesLeavesNothingBehind) {
  TestServer server({}, options_);
  for (int i = 0; i < 20; ++i) {
    TlsClient client(server.port());
    ASSERT_TRUE(client.is_open());
    if (i % 2 == 0) client.send("GET /ready HTTP/1.1\r\nHo");
  }
  TlsClient last(server.port());
  EXPECT_TRUE(eventually([&] {
    last.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
    return contains(last.read_until("cortex_model_info{"), "\ncortex_connections 1\n");
  }));
}

TEST_F(Tls, FilesThatCannotBeUsedAreNamed) {
  const auto refused = [&](const char* field, const std::string& says) {
    options_.port = 0;
    const auto server = Server::create(options_);
    ASSERT_FALSE(server) << says;
    EXPECT_EQ(server.error().field, field) << server.error().message;
    EXPECT_TRUE(contains(server.error().message, says)) << server.error().message;
  };
  const ServerOptions good = options_;
  options_.tls_key = dir_.file("absent");
  refused("tls-key", "absent");
  options_ = good;
  options_.tls_cert = dir_.file("key");
  refused("tls-cert", dir_.file("key"));
  options_ = good;
  write_identity(dir_.file("other-cert"), dir_.file("other-key"), 1);
  options_.tls_key = dir_.file("other-key");
  refused("tls-key", "");
  options_ = good;
  options_.tls_key.clear();
  refused("tls-key", "go together");
}

}  // namespace
}  // namespace cortex::testing
