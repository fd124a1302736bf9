#include "client/http_message.h"

#include <gtest/gtest.h>

#include <string>

#include "client/address.h"

namespace cortex {
namespace {

TEST(HttpMessage, AReplyComesOnlyWhenItIsWhole) {
  const std::string text =
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Other:  a b \r\n\r\nhelloHTTP/1.1";
  const std::size_t whole = text.size() - 8;
  for (std::size_t n = 0; n < whole; ++n) {
    const auto reply = parse_http_reply(std::string_view(text).substr(0, n));
    ASSERT_TRUE(reply) << n;
    EXPECT_FALSE(reply->has_value()) << n;
  }
  const auto reply = parse_http_reply(text).value_or_throw().value();
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.body, "hello");
  EXPECT_EQ(reply.size, whole);
  EXPECT_TRUE(reply.keep_alive);
  EXPECT_EQ(reply.header("x-other"), "a b");
  EXPECT_EQ(reply.header("missing"), "");
}

TEST(HttpMessage, ABodyWithoutALengthEndsWithTheConnection) {
  const std::string text = "HTTP/1.0 200 OK\r\n\r\nall of it";
  EXPECT_FALSE(parse_http_reply(text).value_or_throw());
  EXPECT_EQ(parse_http_reply(text, true).value_or_throw()->body, "all of it");
}

TEST(HttpMessage, WhatIsNotHttpIsAnError) {
  for (const char* text : {"SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "HTTP/1.1\r\n\r\n",
                           "HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
                           "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"})
    EXPECT_FALSE(parse_http_reply(text)) << text;
  EXPECT_FALSE(parse_http_reply(std::string(100'000, 'x')));
}

TEST(HttpMessage, ARequestStatesItsLengthAndKey) {
  EXPECT_EQ(http_request("POST", "/decode", "h:1", "secret", "{}", true),
            "POST /decode HTTP/1.1\r\nHost: h:1\r\nAuthorization: Bearer secret\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}");
}

TEST(Address, UrlsOfThreeKindsAreUnderstood) {
  EXPECT_EQ(parse_url("http://127.0.0.1:8080/x")->authority(), "127.0.0.1:8080");
  EXPECT_EQ(parse_url("ws://lab")->port, "80");
  EXPECT_FALSE(parse_url("ws://lab")->is_tls);
  EXPECT_EQ(parse_url("wss://lab")->port, "443");
  EXPECT_TRUE(parse_url("https://lab:8443/")->is_tls);
  EXPECT_EQ(parse_url("[::1]:9")->host, "::1");
  EXPECT_EQ(parse_url("unix:/run/cortex.sock")->path, "/run/cortex.sock");
  EXPECT_EQ(parse_url("unix:///run/cortex.sock")->path, "/run/cortex.sock");
  for (const char* url : {"ftp://x", "http://", "unix:", "http://x:"})
    EXPECT_EQ(parse_url(url).error().code, ErrorCode::invalid_argument) << url;
}

}  // namespace
}  // namespace cortex
