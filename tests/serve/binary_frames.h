#pragma once

#include <cortex/events.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

/// The client's side of the binary frames, written from docs/protocol.md and not from the server's
/// code.
namespace cortex::testing {

class Bytes {
 public:
  template <class T>
  Bytes& put(T value) {
    char raw[sizeof value];
    std::memcpy(raw, &value, sizeof value);
    text_.append(raw, sizeof value);
    return *this;
  }
  Bytes& text(std::string_view s) {
    put(static_cast<std::uint16_t>(s.size()));
    text_ += s;
    return *this;
  }
  const std::string& str() const { return text_; }

 private:
  std::string text_;
};

inline Bytes binary_header(int type, int flags, std::uint32_t count, std::int64_t sequence,
                           int version = 1) {
  Bytes bytes;
  bytes.put(static_cast<std::uint8_t>(version)).put(static_cast<std::uint8_t>(type));
  bytes.put(static_cast<std::uint16_t>(flags)).put(count).put(sequence);
  return bytes;
}

inline std::string binary_step(std::int64_t sequence, const std::vector<Event>& events = {},
                               std::int64_t gap = 0, std::uint64_t deadline_us = 0, int flags = 0) {
  Bytes bytes = binary_header(2, flags, static_cast<std::uint32_t>(events.size()), sequence);
  bytes.put(gap).put(deadline_us);
  for (const Event& e : events) bytes.put(e.unit).put(e.value).put(e.bin);
  return bytes.str();
}

struct BinaryOpen {
  int flags = 0;
  std::int64_t first_step = 0;
  std::uint64_t deadline_us = 0;
  double rate_hz = 0;
  std::string model = {};
  std::vector<std::string> units = {};
};
inline std::string binary_open(const BinaryOpen& open = {}) {
  Bytes bytes =
      binary_header(1, open.flags, static_cast<std::uint32_t>(open.units.size()), open.first_step);
  bytes.put(open.deadline_us).put(open.rate_hz).text(open.model);
  for (const std::string& unit : open.units) bytes.text(unit);
  return bytes.str();
}

inline std::string binary_close() { return binary_header(3, 0, 0, 0).str(); }

template <class T>
T number_at(std::string_view frame, std::size_t offset) {
  T value{};
  if (frame.size() >= offset + sizeof value)
    std::memcpy(&value, frame.data() + offset, sizeof value);
  return value;
}
inline int type_of(std::string_view frame) { return number_at<std::uint8_t>(frame, 1); }
inline int flags_of(std::string_view frame) { return number_at<std::uint16_t>(frame, 2); }
inline std::uint32_t count_of(std::string_view frame) { return number_at<std::uint32_t>(frame, 4); }
inline std::int64_t sequence_of(std::string_view frame) {
  return number_at<std::int64_t>(frame, 8);
}

/// The strings from an offset to the frame's end.
inline std::vector<std::string> strings_from(std::string_view frame, std::size_t offset) {
  std::vector<std::string> strings;
  while (offset + 2 <= frame.size()) {
    const std::size_t n = number_at<std::uint16_t>(frame, offset);
    strings.emplace_back(frame.substr(offset + 2, n));
    offset += 2 + n;
  }
  return strings;
}

constexpr int kTypeOpened = 129;
constexpr int kTypeAnswer = 130;
constexpr int kTypeClosed = 131;
constexpr int kTypeError = 132;

}  // namespace cortex::testing
