#include "client/websocket.h"

#include <fmt/format.h>

#include <array>
#include <bit>
#include <cstring>

namespace cortex::websocket {
namespace {

constexpr std::string_view kGuid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
constexpr std::uint8_t kFinal = 0x80;
constexpr std::uint8_t kReserved = 0x70;
constexpr std::uint8_t kMasked = 0x80;
constexpr std::size_t kMostControl = 125;

using Digest = std::array<std::uint8_t, 20>;

/// FIPS 180-1, for the handshake alone: RFC 6455 asks for no secrecy of it.
Digest sha1(std::string text) {
  std::array<std::uint32_t, 5> h = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
  const std::uint64_t bits = std::uint64_t{text.size()} * 8;
  text += '\x80';
  while (text.size() % 64 != 56) text += '\0';
  for (int shift = 56; shift >= 0; shift -= 8) text += static_cast<char>(bits >> shift);
  for (std::size_t at = 0; at < text.size(); at += 64) {
    std::array<std::uint32_t, 80> w{};
    for (std::size_t i = 0; i < 64; ++i)
      w[i / 4] = w[i / 4] << 8 | static_cast<unsigned char>(text[at + i]);
    for (std::size_t i = 16; i < 80; ++i)
      w[i] = std::rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    auto [a, b, c, d, e] = h;
    for (std::size_t i = 0; i < 80; ++i) {
      const std::uint32_t f = i < 20   ? (b & c) | (~b & d)
                              : i < 40 ? b ^ c ^ d
                              : i < 60 ? (b & c) | (b & d) | (c & d)
                                       : b ^ c ^ d;
      constexpr std::array<std::uint32_t, 4> k = {0x5A827999, 0x6ED9EBA1, 0x8F1BBCDC, 0xCA62C1D6};
      const std::uint32_t next = std::rotl(a, 5) + f + e + k[i / 20] + w[i];
      e = d;
      d = c;
      c = std::rotl(b, 30);
      b = a;
      a = next;
    }
    h = {h[0] + a, h[1] + b, h[2] + c, h[3] + d, h[4] + e};
  }
  Digest digest{};
  for (std::size_t i = 0; i < digest.size(); ++i)
    digest[i] = static_cast<std::uint8_t>(h[i / 4] >> (24 - 8 * (i % 4)));
  return digest;
}

template <class Bytes>
std::string base64(const Bytes& bytes) {
  constexpr const char* kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? std::uint32_t{bytes[i + j]} : 0U);
    for (std::size_t j = 0; j < 4; ++j)
      text += i + j <= bytes.size() ? kDigits[group >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

Error bad_frame(const std::string& why) {
  return {ErrorCode::corrupt_data, "the server's frame " + why, ""};
}

}  // namespace

std::string make_key() {
  std::random_device random;
  std::array<std::uint8_t, 16> bytes{};
  for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(random());
  return base64(bytes);
}

std::string accept_of(std::string_view key) {
  return base64(sha1(std::string(key) + std::string(kGuid)));
}

std::string upgrade_request(std::string_view path, std::string_view authority, std::string_view key,
                            std::string_view api_key) {
  std::string text = fmt::format(
      "GET {} HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
      "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {}\r\n",
      path, authority, key);
  if (!api_key.empty()) text += fmt::format("Authorization: Bearer {}\r\n", api_key);
  return text + "\r\n";
}

std::string_view Writer::frame(Opcode opcode, std::string_view payload) {
  out_.clear();
  out_ += static_cast<char>(kFinal | static_cast<std::uint8_t>(opcode));
  const std::size_t n = payload.size();
  if (n < 126) {
    out_ += static_cast<char>(kMasked | n);
  } else {
    const int bytes = n < 65536 ? 2 : 8;
    out_ += static_cast<char>(kMasked | (bytes == 2 ? 126 : 127));
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8)
      out_ += static_cast<char>(std::uint64_t{n} >> shift);
  }
  const auto word = static_cast<std::uint32_t>(mask_()) << 1 ^ static_cast<std::uint32_t>(mask_());
  char mask[4];
  std::memcpy(mask, &word, 4);
  out_.append(mask, 4);
  const std::size_t begin = out_.size();
  out_ += payload;
  char* const bytes = out_.data() + begin;
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    std::uint32_t group = 0;
    std::memcpy(&group, bytes + i, 4);
    group ^= word;
    std::memcpy(bytes + i, &group, 4);
  }
  for (; i < n; ++i) bytes[i] = static_cast<char>(bytes[i] ^ mask[i % 4]);
  return out_;
}

Closing parse_close(std::string_view payload) {
  Closing closing;
  if (payload.size() < 2) return closing;
  closing.code =
      static_cast<unsigned char>(payload[0]) << 8 | static_cast<unsigned char>(payload[1]);
  closing.reason = payload.substr(2);
  return closing;
}

Result<Reader::Step> Reader::next(std::string_view text) {
  if (!begun_) parts_.clear();
  if (text.size() < 2) return Step{};
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  const bool is_final = (byte(0) & kFinal) != 0;
  const int code = byte(0) & 15;
  if ((byte(0) & kReserved) != 0) return bad_frame("uses an extension that was not agreed on");
  if ((byte(1) & kMasked) != 0) return bad_frame("is masked");
  std::uint64_t length = byte(1) & 127;
  std::size_t head = 2;
  if (length >= 126) {
    const std::size_t wide = length == 126 ? 2 : 8;
    if (text.size() < head + wide) return Step{};
    length = 0;
    for (std::size_t i = 0; i < wide; ++i) length = length << 8 | byte(head + i);
    head += wide;
  }
  const bool is_control = code >= 8;
  if (is_control && (!is_final || length > kMostControl))
    return bad_frame("is a control frame that is too long or in parts");
  if (length > most_bytes_ - parts_.size())
    return bad_frame(fmt::format("has {} bytes, at most {} are taken", length, most_bytes_));
  if (text.size() - head < length) return Step{};
  const std::string_view payload = text.substr(head, length);
  Step step{.consumed = head + length};
  if (is_control) {
    if (code > 10) return bad_frame(fmt::format("is of the unknown kind {}", code));
    step.message = Message{static_cast<Opcode>(code), payload};
    return step;
  }
  if (code > 2) return bad_frame(fmt::format("is of the unknown kind {}", code));
  if ((code == 0) != begun_.has_value()) return bad_frame("is a part of no message");
  if (is_final && !begun_) {
    step.message = Message{static_cast<Opcode>(code), payload};
    return step;
  }
  if (!begun_) begun_ = static_cast<Opcode>(code);
  parts_ += payload;
  if (is_final) {
    step.message = Message{*begun_, parts_};
    begun_.reset();
  }
  return step;
}

}  // namespace cortex::websocket
