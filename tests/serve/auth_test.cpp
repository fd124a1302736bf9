#include "serve/auth.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "serve/server.h"
#include "support/paths.h"

namespace cortex {
namespace {

Result<KeyRing> ring(const std::string& text, int max_tenants = 8, const KeyRing& before = {}) {
  return KeyRing::parse(text, "keys", max_tenants, before);
}

TEST(Auth, TakesTheKeysOfTheFileAndNothingElse) {
  const KeyRing keys = ring("0123456789abcdef\nlab-a a-key-of-lab-a-001\n").value_or_throw();
  EXPECT_EQ(keys.find("Bearer 0123456789abcdef")->tenant, "default");
  EXPECT_EQ(keys.find("bearer a-key-of-lab-a-001")->tenant, "lab-a");
  for (const char* wrong :
       {"Bearer 0123456789abcdeF", "Bearer 0123456789abcde", "Bearer ", "", "Bearer",
        "Bearer 0123456789abcdef0123456789abcdef", "Basic 0123456789abcdef", "Bearer lab-a",
        "Bearer  0123456789abcdef", "Bearer 0123456789abcdef "})
    EXPECT_FALSE(keys.find(wrong)) << wrong;
  EXPECT_FALSE(KeyRing().find("Bearer 0123456789abcdef"));
}

TEST(Auth, TenantsHaveIdsOfTheirOwnAndSeveralKeys) {
  const KeyRing keys = ring(
                           "# two labs\n"
                           "a  a-key-of-lab-a-001  admin\r\n"
                           "\n"
                           "a\ta-key-of-lab-a-002\n"
                           "b b-key-of-lab-b-001")
                           .value_or_throw();
  EXPECT_EQ(keys.size(), 3U);
  const auto first = keys.find("Bearer a-key-of-lab-a-001");
  const auto second = keys.find("Bearer a-key-of-lab-a-002");
  const auto other = keys.find("Bearer b-key-of-lab-b-001");
  EXPECT_TRUE(first->is_admin);
  EXPECT_FALSE(second->is_admin);
  EXPECT_EQ(first->id, second->id);
  EXPECT_NE(first->id, other->id);
  // 0 is whoever comes without a key.
  EXPECT_NE(first->id, 0U);
  EXPECT_NE(other->id, 0U);
}

TEST(Auth, ATenantKeepsItsIdWhenTheFileChanges) {
  const KeyRing before = ring("a a-key-of-lab-a-001\nb b-key-of-lab-b-001").value_or_throw();
  const KeyRing after =
      ring("c c-key-of-lab-c-001\nb b-key-of-lab-b-002", 8, before).value_or_throw();
  EXPECT_EQ(after.find("Bearer b-key-of-lab-b-002")->id,
            before.find("Bearer b-key-of-lab-b-001")->id);
  EXPECT_NE(after.find("Bearer c-key-of-lab-c-001")->id,
            after.find("Bearer b-key-of-lab-b-002")->id);
}

TEST(Auth, ABadKeyFileNamesTheLineAndNeverTheKey) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "no API key"},
      {"# only a comment\n", "no API key"},
      {"0123456789abcdef\nshort\n", "keys:2:"},
      {"a a-key-of-lab-a-001 root\n", "keys:1:"},
      {"a b-key-of-lab-b-001 admin x\n", "keys:1:"},
      {"../a a-key-of-lab-a-001\n", "tenant's name"},
      {"a a-key-of-lab-a-001\nb a-key-of-lab-a-001\n", "keys:2: this key is in the file already"},
      {"a a-key-of-lab-a-\x01\x02\x03\n", "printable"},
  };
  for (const auto& [text, says] : cases) {
    const auto keys = ring(text);
    ASSERT_FALSE(keys) << text;
    EXPECT_NE(keys.error().message.find(says), std::string::npos) << keys.error().message;
    EXPECT_EQ(keys.error().message.find("a-key-of"), std::string::npos) << keys.error().message;
  }
}

TEST(Auth, MoreTenantsThanTheEngineKnowsAreRefused) {
  const std::string three = "a a-key-of-lab-a-001\nb b-key-of-lab-b-001\nc c-key-of-lab-c-001\n";
  EXPECT_TRUE(ring(three, 4));
  const auto refused = ring(three, 3);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("--max-tenants"), std::string::npos);
}

TEST(Auth, AFileThatChangesIsReadAgainAndABrokenOneIsNot) {
  const testing::TempDir dir;
  const std::string path = dir.file("keys");
  std::ofstream(path) << "0123456789abcdef\n";
  KeyFile file = KeyFile::open(path, 8).value_or_throw();
  EXPECT_FALSE(*file.refresh(false));
  std::ofstream(path) << "fedcba9876543210-new\n";
  EXPECT_TRUE(*file.refresh(false));
  EXPECT_FALSE(file.keys().find("Bearer 0123456789abcdef"));
  EXPECT_TRUE(file.keys().find("Bearer fedcba9876543210-new"));
  std::ofstream(path) << "x\n";
  EXPECT_FALSE(file.refresh(false));
  EXPECT_TRUE(file.keys().find("Bearer fedcba9876543210-new"));
  EXPECT_FALSE(*file.refresh(false)) << "an error is told once";
  std::filesystem::remove(path);
  EXPECT_FALSE(file.refresh(false));
  EXPECT_TRUE(file.keys().find("Bearer fedcba9876543210-new"));
}

TEST(Auth, KnowsLoopbackFromTheRest) {
  for (const char* host : {"127.0.0.1", "127.9.9.9", "::1", "localhost"})
    EXPECT_TRUE(is_loopback(host)) << host;
  for (const char* host : {"0.0.0.0", "::", "192.168.1.2", "128.0.0.1", "example.org", ""})
    EXPECT_FALSE(is_loopback(host)) << host;
}

TEST(Auth, AClientTakesTheFirstKeyOfAFile) {
  const testing::TempDir dir;
  std::ofstream(dir.file("key")) << "  0123456789abcdef \r\nlab another-key-of-16\n";
  EXPECT_EQ(*read_api_key(dir.file("key")), "0123456789abcdef");
  std::ofstream(dir.file("empty")).flush();
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
  const testing::TempDir dir;
  std::ofstream(dir.file("key")) << "0123456789abcdef\n";
  options.api_key_file = dir.file("key");
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
