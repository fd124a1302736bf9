#include "train/event_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <filesystem>
#include <fstream>

namespace cortex::train {
namespace {

constexpr std::uint32_t kReflected = 0x82f63b78;
constexpr std::uint32_t kMaskDelta = 0xa282ead8;

std::array<std::uint32_t, 256> make_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? kReflected : 0);
    table[i] = crc;
  }
  return table;
}

template <class T>
std::string little_endian(T value) {
  std::string bytes(sizeof(T), 0);
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}
static_assert(std::endian::native == std::endian::little);

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

enum Wire { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

std::string field(int number, Wire wire, const std::string& payload) {
  return varint(static_cast<std::uint64_t>(number << 3 | wire)) + payload;
}
std::string message(int number, const std::string& payload) {
  return field(number, kBytes, varint(payload.size()) + payload);
}

std::string masked_crc(const std::string& bytes) {
  return little_endian(std::rotr(crc32c(bytes), 15) + kMaskDelta);
}

std::string record(const std::string& payload) {
  const std::string length = little_endian(static_cast<std::uint64_t>(payload.size()));
  return length + masked_crc(length) + payload + masked_crc(payload);
}

// Event: wall_time = 1, step = 2, file_version = 3, summary = 5. Summary: value = 1.
// Summary.Value: tag = 1, simple_value = 2.
std::string event(double wall_time_s, std::int64_t step, const std::string& rest) {
  return field(1, kFixed64, little_endian(wall_time_s)) +
         field(2, kVarint, varint(static_cast<std::uint64_t>(step))) + rest;
}

}  // namespace

std::uint32_t crc32c(const std::string& bytes) {
  static const auto table = make_table();
  std::uint32_t crc = 0xffffffff;
  for (const char c : bytes) crc = table[(crc ^ static_cast<unsigned char>(c)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

EventFile::EventFile(std::string path) : path_(std::move(path)) {}

Result<void> EventFile::append(std::int64_t step,
                               const std::vector<std::pair<std::string, double>>& scalars,
                               double wall_time_s) {
  std::error_code ec;
  const bool fresh = !std::filesystem::exists(path_, ec);
  std::ofstream out(path_, std::ios::binary | std::ios::app);
  if (fresh) out << record(event(wall_time_s, 0, message(3, "brain.Event:2")));
  std::string summary;
  for (const auto& [tag, value] : scalars)
    summary +=
        message(1, message(1, tag) + field(2, kFixed32, little_endian(static_cast<float>(value))));
  out << record(event(wall_time_s, step, message(5, summary)));
  if (!out.flush()) return Error{ErrorCode::io_error, path_ + ": cannot be written", "run"};
  return {};
}

}  // namespace cortex::train
