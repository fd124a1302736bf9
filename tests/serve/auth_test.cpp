#include "serve/auth.h"

#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "serve/server.h"
#include "support/paths.h"

namespace cortex {
namespace {

TEST(Auth, TakesTheKeyAndNothingElse) {
  const std::string key = "0123456789abcdef";
  EXPECT_TRUE(bearer_matches("Bearer 0123456789abcdef", key));
  EXPECT_TRUE(bearer_matches("bearer 0123456789abcdef", key));
  EXPECT_FALSE(bearer_matches("Bearer 0123456789abcdeF", key));
  EXPECT_FALSE(bearer_matches("Bearer 0123456789abcde", key));
  EXPECT_FALSE(bearer_matches("Bearer 0123456789abcdef0123456789abcdef", key));
  EXPECT_FALSE(bearer_matches("Basic 0123456789abcdef", key));
  EXPECT_FALSE(bearer_matches("Bearer ", key));
  EXPECT_FALSE(bearer_matches("", key));
  EXPECT_FALSE(bearer_matches("Bearer x", ""));
}

TEST(Auth, KnowsLoopbackFromTheRest) {
  for (const char* host : {"127.0.0.1", "127.9.9.9", "::1", "localhost"})
    EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"0.0.0.0", "::", "192.168.1.2", "128.0.0.1", "example.org", ""})
    EXPECT_FALSE(is_loopback(host)) << host;
}

TEST(Auth, ReadsTheFirstLineOfAKeyFile) {
  const testing::TempDir dir;
  std::ofstream(dir.file("key")) << "  0123456789abcdef \r\nsecond line\n";
  EXPECT_EQ(*read_api_key(dir.file("key")), "0123456789abcdef");
  std::ofstream(dir.file("short")) << "abc\n";
  EXPECT_FALSE(read_api_key(dir.file("short")));
  std::ofstream(dir.file("empty"));
  EXPECT_FALSE(read_api_key(dir.file("empty")));
  EXPECT_FALSE(read_api_key(dir.file("absent")));
}

TEST(Auth, AnAddressThatOthersReachNeedsAKey) {
  ServerOptions options;
  options.port = 0;
  options.host = "0.0.0.0";
  const auto refused = Server::create(options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(refused.error().field, "host");
  options.api_key = "0123456789abcdef";
  EXPECT_TRUE(Server::create(options));
  options.host = "no such host";
  EXPECT_FALSE(Server::create(options));
}

TEST(Auth, ATakenPortIsNamed) {
  ServerOptions options;
  options.port = 0;
  const auto first = Server::create(options);
  ASSERT_TRUE(first);
  options.port = (*first)->port();
  const auto second = Server::create(options);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::io_error);
  EXPECT_NE(second.error().message.find(std::to_string(options.port)), std::string::npos);
}

}  // namespace
}  // namespace cortex
