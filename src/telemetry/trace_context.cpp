#include "telemetry/trace_context.h"

#include <algorithm>
#include <span>

namespace cortex {
namespace {

constexpr std::size_t kLength = 55;  // 2 + 1 + 32 + 1 + 16 + 1 + 2

/// The value of a lower-case digit, or -1: the standard forbids upper case.
int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

bool read_hex(std::string_view text, std::span<std::uint8_t> bytes) {
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const int high = digit(text[2 * i]);
    const int low = digit(text[2 * i + 1]);
    if (high < 0 || low < 0) return false;
    bytes[i] = static_cast<std::uint8_t>(high * 16 + low);
  }
  return true;
}

void append_hex(std::string& text, std::span<const std::uint8_t> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  for (const std::uint8_t b : bytes) {
    text += kDigits[b >> 4];
    text += kDigits[b & 15];
  }
}

template <class Id>
bool is_zero(const Id& id) {
  return std::all_of(id.begin(), id.end(), [](std::uint8_t b) { return b == 0; });
}

template <class Id>
std::string hex_of(const Id& id) {
  std::string text;
  text.reserve(2 * id.size());
  append_hex(text, id);
  return text;
}

}  // namespace

std::optional<TraceContext> parse_traceparent(std::string_view header) {
  if (header.size() < kLength || header[2] != '-' || header[35] != '-' || header[52] != '-')
    return std::nullopt;
  std::uint8_t version = 0;
  std::uint8_t flags = 0;
  TraceContext context;
  if (!read_hex(header, {&version, 1}) || !read_hex(header.substr(3), context.trace) ||
      !read_hex(header.substr(36), context.span) || !read_hex(header.substr(53), {&flags, 1}))
    return std::nullopt;
  // A later version may append fields; version 255 is none.
  if (version == 0xff || (version == 0 && header.size() != kLength) ||
      (header.size() > kLength && header[kLength] != '-'))
    return std::nullopt;
  if (is_zero(context.trace) || is_zero(context.span)) return std::nullopt;
  context.sampled = (flags & 1) != 0;
  return context;
}

std::string format_traceparent(const TraceContext& context) {
  std::string text = "00-";
  append_hex(text, context.trace);
  text += '-';
  append_hex(text, context.span);
  text += context.sampled ? "-01" : "-00";
  return text;
}

std::string hex(const TraceId& id) { return hex_of(id); }
std::string hex(const SpanId& id) { return hex_of(id); }

}  // namespace cortex
