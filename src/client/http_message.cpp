#include "client/http_message.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>

namespace cortex {
namespace {

constexpr std::string_view kEndOfHead = "\r\n\r\n";
constexpr std::size_t kStatusAt = 9;  // "HTTP/1.1 200"
constexpr std::size_t kMostHead = 64 << 10;

bool same_text(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) {
    return std::tolower(static_cast<unsigned char>(x)) ==
           std::tolower(static_cast<unsigned char>(y));
  });
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

Error not_http(std::string_view why) {
  return {ErrorCode::corrupt_data, fmt::format("the server's answer is not HTTP/1.1: {}", why), ""};
}

}  // namespace

std::string_view HttpReply::header(std::string_view name) const {
  std::string_view rest = head.substr(std::min(head.find("\r\n"), head.size()));
  while (rest.starts_with("\r\n")) {
    rest.remove_prefix(2);
    const std::string_view line = rest.substr(0, rest.find("\r\n"));
    const auto colon = line.find(':');
    if (colon != std::string_view::npos && same_text(line.substr(0, colon), name))
      return trimmed(line.substr(colon + 1));
    rest.remove_prefix(line.size());
  }
  return {};
}

Result<std::optional<HttpReply>> parse_http_reply(std::string_view text, bool is_end) {
  const auto end = text.find(kEndOfHead);
  if (end == std::string_view::npos) {
    if (text.size() > kMostHead) return not_http("its header does not end");
    return std::optional<HttpReply>{};
  }
  HttpReply reply;
  reply.head = text.substr(0, end);
  if (!reply.head.starts_with("HTTP/1.") || reply.head.size() < kStatusAt + 3)
    return not_http(reply.head.substr(0, 40));
  const char* digits = reply.head.data() + kStatusAt;
  if (std::from_chars(digits, digits + 3, reply.status).ptr != digits + 3)
    return not_http(reply.head.substr(0, 40));
  if (!reply.header("Transfer-Encoding").empty()) return not_http("it has a transfer coding");
  reply.keep_alive = !same_text(reply.header("Connection"), "close");
  reply.size = end + kEndOfHead.size();
  // An upgraded connection goes on with frames.
  if (reply.status == 101 || reply.status == 204 || reply.status == 304)
    return std::optional(reply);
  const std::string_view length = reply.header("Content-Length");
  std::size_t bytes = 0;
  if (length.empty()) {
    if (!is_end) return std::optional<HttpReply>{};
    bytes = text.size() - reply.size;
    reply.keep_alive = false;
  } else if (const auto parsed =
                 std::from_chars(length.data(), length.data() + length.size(), bytes);
             parsed.ec != std::errc{} || parsed.ptr != length.data() + length.size()) {
    return not_http("Content-Length: " + std::string(length.substr(0, 40)));
  }
  if (bytes > text.size() - reply.size) return std::optional<HttpReply>{};
  reply.body = text.substr(reply.size, bytes);
  reply.size += bytes;
  return std::optional(reply);
}

std::string http_request(std::string_view method, std::string_view path, std::string_view authority,
                         std::string_view api_key, std::string_view body, bool keep_alive) {
  std::string text = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n", method, path, authority);
  if (!api_key.empty()) text += fmt::format("Authorization: Bearer {}\r\n", api_key);
  if (!keep_alive) text += "Connection: close\r\n";
  if (!body.empty()) text += "Content-Type: application/json\r\n";
  if (!body.empty() || method == "POST") text += fmt::format("Content-Length: {}\r\n", body.size());
  text += "\r\n";
  text += body;
  return text;
}

}  // namespace cortex
