#include "client/websocket.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace cortex::websocket {
namespace {

std::string server_frame(int first, std::string_view payload) {
  std::string frame(1, static_cast<char>(first));
  if (payload.size() < 126) {
    frame += static_cast<char>(payload.size());
  } else {
    frame += static_cast<char>(126);
    frame += static_cast<char>(payload.size() >> 8);
    frame += static_cast<char>(payload.size() & 255);
  }
  return frame + std::string(payload);
}

std::string unmasked(std::string_view frame, std::size_t head) {
  std::string payload(frame.substr(head + 4));
  for (std::size_t i = 0; i < payload.size(); ++i)
    payload[i] = static_cast<char>(payload[i] ^ frame[head + i % 4]);
  return payload;
}

TEST(WebSocket, TheKeysOfTheRfcAreAnsweredAsItSays) {
  EXPECT_EQ(accept_of("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

TEST(WebSocket, KeysAreSixteenRandomBytes) {
  const std::string key = make_key();
  EXPECT_EQ(key.size(), 24U);
  EXPECT_TRUE(key.ends_with("=="));
  EXPECT_NE(key, make_key());
}

TEST(WebSocket, FramesAreMaskedAndStateTheirLength) {
  Writer writer;
  for (const std::size_t n : {0U, 1U, 5U, 125U, 126U, 65535U, 65536U}) {
    const std::string payload(n, 'x');
    const std::string frame(writer.frame(Opcode::binary, payload));
    EXPECT_EQ(frame[0], '\x82');
    const std::size_t head = n < 126 ? 2 : n < 65536 ? 4 : 10;
    EXPECT_EQ(static_cast<unsigned char>(frame[1]), 0x80 | (n < 126 ? n : n < 65536 ? 126U : 127U));
    ASSERT_EQ(frame.size(), head + 4 + n);
    EXPECT_EQ(unmasked(frame, head), payload);
  }
}

TEST(WebSocket, AMessageComesOnlyWhenItIsWhole) {
  const std::string bytes = server_frame(0x81, std::string(200, 'a'));
  Reader reader;
  for (std::size_t n = 0; n < bytes.size(); ++n) {
    const auto step = reader.next(std::string_view(bytes).substr(0, n));
    ASSERT_TRUE(step);
    EXPECT_EQ(step->consumed, 0U) << n;
  }
  const auto step = reader.next(bytes).value_or_throw();
  EXPECT_EQ(step.consumed, bytes.size());
  ASSERT_TRUE(step.message);
  EXPECT_EQ(step.message->payload, std::string(200, 'a'));
}

TEST(WebSocket, PartsArePutTogetherAroundAPing) {
  const std::string bytes = server_frame(0x02, "one ") + server_frame(0x89, "are you there") +
                            server_frame(0x00, "two ") + server_frame(0x80, "three");
  Reader reader;
  std::vector<std::pair<Opcode, std::string>> messages;
  for (std::string_view rest = bytes; !rest.empty();) {
    const auto step = reader.next(rest).value_or_throw();
    ASSERT_GT(step.consumed, 0U);
    if (step.message) messages.emplace_back(step.message->opcode, step.message->payload);
    rest.remove_prefix(step.consumed);
  }
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0], std::pair(Opcode::ping, std::string("are you there")));
  EXPECT_EQ(messages[1], std::pair(Opcode::binary, std::string("one two three")));
}

TEST(WebSocket, FramesThatNoServerMaySendAreErrors) {
  const auto refused = [](const std::string& bytes, std::size_t most = 1000) {
    Reader reader(most);
    std::string_view rest = bytes;
    for (;;) {
      const auto step = reader.next(rest);
      if (!step) return step.error().code == ErrorCode::corrupt_data;
      if (step->consumed == 0) return false;
      rest.remove_prefix(step->consumed);
    }
  };
  EXPECT_TRUE(refused(std::string("\x81\x81\0\0\0\0x", 7))) << "masked";
  EXPECT_TRUE(refused(server_frame(0xc1, "x"))) << "a reserved bit";
  EXPECT_TRUE(refused(server_frame(0x83, "x"))) << "an unknown opcode";
  EXPECT_TRUE(refused(server_frame(0x8b, "x"))) << "an unknown control opcode";
  EXPECT_TRUE(refused(server_frame(0x80, "x"))) << "the end of nothing";
  EXPECT_TRUE(refused(server_frame(0x01, "x") + server_frame(0x81, "y"))) << "a second beginning";
  EXPECT_TRUE(refused(server_frame(0x09, "x"))) << "a ping in parts";
  EXPECT_TRUE(refused(server_frame(0x89, std::string(126, 'x')))) << "a long ping";
  EXPECT_TRUE(refused(server_frame(0x81, std::string(200, 'x')), 199)) << "too long";
  EXPECT_TRUE(refused(
      server_frame(0x01, std::string(120, 'x')) + server_frame(0x80, std::string(120, 'x')), 199))
      << "too long in all";
}

TEST(WebSocket, AClosingSaysWhy) {
  const Closing closing = parse_close(std::string_view("\x03\xe9going away", 12));
  EXPECT_EQ(closing.code, 1001);
  EXPECT_EQ(closing.reason, "going away");
  EXPECT_EQ(parse_close("").code, 1005);
}

}  // namespace
}  // namespace cortex::websocket
