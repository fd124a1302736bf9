#include "data/hdf5_headers.h"

#include <algorithm>
#include <cstring>
#include <vector>

namespace cortex::hdf5 {
namespace {

constexpr unsigned kDatatype = 0x03;
constexpr unsigned kAttribute = 0x0c;
constexpr unsigned kContinuation = 0x10;
constexpr std::size_t kMostChunks = 1024;

using Bytes = std::span<const std::byte>;

/// Reads upwards through bytes; whatever lies beyond them makes it bad, never undefined.
class Cursor {
 public:
  explicit Cursor(Bytes bytes) : bytes_(bytes) {}
  bool good() const { return good_; }
  std::size_t left() const { return bytes_.size() - at_; }
  std::uint64_t number(std::size_t width) {
    const Bytes from = take(width);
    std::uint64_t value = 0;
    if (!from.empty()) std::memcpy(&value, from.data(), width);
    return value;
  }
  Bytes take(std::uint64_t n) {
    if (n > left()) {
      good_ = false;
      return {};
    }
    const Bytes taken = bytes_.subspan(at_, static_cast<std::size_t>(n));
    at_ += static_cast<std::size_t>(n);
    return taken;
  }

 private:
  Bytes bytes_;
  std::size_t at_ = 0;
  bool good_ = true;
};

/// Values that a dataspace spans, or -1 where it is not whole.
std::int64_t count_values(Bytes space) {
  constexpr std::int64_t kMost = 1 << 24;
  Cursor c(space);
  const auto version = c.number(1), rank = c.number(1), flags = c.number(1);
  c.take(version == 1 ? 5 : 1);
  if (version < 1 || version > 2 || rank > 32) return -1;
  std::int64_t count = 1;
  for (std::uint64_t d = 0; d < rank; ++d) {
    const std::uint64_t size = c.number(8);
    if (size > static_cast<std::uint64_t>(kMost)) return -1;
    count *= static_cast<std::int64_t>(size);
    if (count > kMost) return -1;
  }
  if (flags & 1) c.take(8 * rank);
  return c.good() ? count : -1;
}

/// An enumeration is of integers of its own size, and its members lie within its message.
bool sound_enumeration(Bytes type) {
  Cursor c(type);
  const auto version = c.number(1) >> 4;
  const auto members = c.number(2);
  c.take(1);
  const std::uint64_t size = c.number(4);
  constexpr std::uint64_t kInteger = 0;
  const auto base = c.number(1) & 15;
  c.take(3);
  const std::uint64_t base_size = c.number(4);
  c.take(4);  // bit offset and precision of the base
  if (!c.good() || base != kInteger || base_size != size) return false;
  for (std::uint64_t m = 0; m < members && c.good(); ++m) {
    std::uint64_t bytes = 1;
    while (c.good() && c.number(1) != 0) ++bytes;
    if (version < 3) c.take((8 - bytes % 8) % 8);
  }
  c.take(members * size);
  return c.good();
}

/// Bytes of one value in the file, or -1 where the type is not sound.
std::int64_t value_bytes(Bytes type) {
  constexpr unsigned kEnumeration = 8;
  constexpr unsigned kVariableLength = 9;
  constexpr std::uint64_t kReference = 16;
  Cursor c(type);
  const auto kind = c.number(1) & 15;
  c.take(3);
  const std::uint64_t size = c.number(4);
  if (!c.good() || (kind == kEnumeration && !sound_enumeration(type))) return -1;
  return static_cast<std::int64_t>(kind == kVariableLength ? std::max(size, kReference) : size);
}

bool sound_attribute(Bytes message) {
  Cursor c(message);
  const auto version = c.number(1), flags = c.number(1);
  const auto name_bytes = c.number(2), type_bytes = c.number(2), space_bytes = c.number(2);
  if (version < 1 || version > 3 || (version > 1 && flags != 0)) return false;
  if (version == 3) c.take(1);
  const auto field = [&](std::uint64_t n) {
    const Bytes bytes = c.take(n);
    if (version == 1) c.take((8 - n % 8) % 8);
    return bytes;
  };
  const Bytes name = field(name_bytes);
  if (name.empty() || name.back() != std::byte{0}) return false;
  const std::int64_t each = value_bytes(field(type_bytes));
  const std::int64_t count = count_values(field(space_bytes));
  return c.good() && each >= 0 && count >= 0 &&
         static_cast<std::uint64_t>(count) * static_cast<std::uint64_t>(each) <= c.left();
}

struct Format {
  bool second = false;    ///< version 2 of the header
  bool numbered = false;  ///< version 2: messages carry their order of creation
};

/// Checks one chunk's messages and adds the chunks that they go on in.
bool sound_messages(Bytes chunk, const Format& format,
                    std::vector<std::pair<std::uint64_t, std::uint64_t>>& more) {
  Cursor c(chunk);
  const std::size_t header = format.second ? (format.numbered ? 6 : 4) : 8;
  while (c.left() >= header) {
    const auto type = c.number(format.second ? 1 : 2);
    const auto size = c.number(2);
    const auto flags = c.number(1);
    c.take(format.second ? (format.numbered ? 2 : 0) : 3);
    const Bytes message = c.take(size);
    if (!c.good()) return false;
    constexpr unsigned kShared = 2;
    if (type == kAttribute && ((flags & kShared) || !sound_attribute(message))) return false;
    if (type == kDatatype && !(flags & kShared) && value_bytes(message) < 0) return false;
    if (type == kContinuation) {
      Cursor where(message);
      const std::uint64_t at = where.number(8), bytes = where.number(8);
      if (!where.good()) return false;
      more.emplace_back(at, bytes);
    }
  }
  return true;
}

Bytes slice(Bytes file, std::uint64_t at, std::uint64_t bytes) {
  if (at > file.size() || bytes > file.size() - at) return {};
  return file.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(bytes));
}

}  // namespace

bool sound_header(Bytes file, std::uint64_t address) {
  if (address >= file.size()) return false;
  Cursor c(file.subspan(static_cast<std::size_t>(address)));
  Format format;
  Bytes first;
  if (const Bytes mark = slice(file, address, 4);
      mark.size() == 4 && std::memcmp(mark.data(), "OHDR", 4) == 0) {
    format.second = true;
    c.take(5);
    const auto flags = c.number(1);
    format.numbered = flags & 4;
    if (flags & 0x20) c.take(16);
    if (flags & 0x10) c.take(4);
    first = c.take(c.number(std::size_t{1} << (flags & 3)));
  } else {
    if (c.number(1) != 1) return false;
    c.take(7);
    const auto bytes = c.number(4);
    c.take(4);
    first = c.take(bytes);
  }
  if (!c.good()) return false;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> more;
  if (!sound_messages(first, format, more)) return false;
  for (std::size_t i = 0; i < more.size(); ++i) {
    if (i >= kMostChunks) return false;
    Bytes chunk = slice(file, more[i].first, more[i].second);
    // Version 2 wraps a chunk in a signature and a checksum, 4 bytes each.
    if (chunk.size() < 8) return false;
    if (format.second) chunk = chunk.subspan(4, chunk.size() - 8);
    if (!sound_messages(chunk, format, more)) return false;
  }
  return true;
}

}  // namespace cortex::hdf5
