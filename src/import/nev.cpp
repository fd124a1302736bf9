#include "import/nev.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <map>
#include <set>
#include <string_view>
#include <utility>

namespace cortex {
namespace {

static_assert(std::endian::native == std::endian::little, "NEV files are little-endian");

constexpr std::size_t kBasicBytes = 336;
constexpr std::size_t kExtendedBytes = 32;
constexpr std::size_t kMaxPacketBytes = 1u << 20;
constexpr int kNoise = 255;
constexpr int kMaxClass = 16;
constexpr double kEpochS = 10 * 86400.0;  // no recorder's own clock runs as long

class Nev {
 public:
  Nev(std::span<const std::byte> bytes, std::string name) : bytes_(bytes), name_(std::move(name)) {}

  Result<Recording> read() {
    if (auto ok = read_basic(); !ok) return ok.error();
    if (auto ok = read_extended(); !ok) return ok.error();
    if (auto ok = read_packets(); !ok) return ok.error();
    return std::move(recording_);
  }

 private:
  template <class T>
  T at(std::size_t offset) const {
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof value);
    return value;
  }
  /// Up to the first zero.
  std::string text(std::size_t offset, std::size_t size) const {
    const auto* chars = reinterpret_cast<const char*>(bytes_.data() + offset);
    std::string found(chars, std::find(chars, chars + size, '\0'));
    for (char& c : found)
      if (static_cast<unsigned char>(c) < 0x20 || static_cast<unsigned char>(c) > 0x7e) c = '?';
    return found;
  }
  Error corrupt(std::size_t offset, const std::string& what) const {
    return {ErrorCode::corrupt_data, fmt::format("{}: byte {}: {}", name_, offset, what), "file"};
  }
  Error unsupported(std::size_t offset, const std::string& what) const {
    return {ErrorCode::unsupported, fmt::format("{}: byte {}: {}", name_, offset, what), "file"};
  }

  Result<void> read_basic() {
    if (bytes_.size() < kBasicBytes)
      return corrupt(0, fmt::format("{} bytes are no NEV file: its header has {}", bytes_.size(),
                                    kBasicBytes));
    const std::string kind = text(0, 8);
    if (kind != "NEURALEV" && kind != "BREVENTS")
      return unsupported(0, fmt::format("'{}' instead of NEURALEV or BREVENTS", kind));
    const int major = at<std::uint8_t>(8), minor = at<std::uint8_t>(9);
    const bool old = kind == "NEURALEV" && major == 2 && (minor == 2 || minor == 3);
    wide_ = kind == "BREVENTS" && major == 3 && minor == 0;
    if (!old && !wide_)
      return unsupported(8, fmt::format("{} version {}.{}; versions 2.2, 2.3 and 3.0 are read",
                                        kind, major, minor));
    header_bytes_ = at<std::uint32_t>(12);
    packet_bytes_ = at<std::uint32_t>(16);
    ticks_per_s_ = at<std::uint32_t>(20);
    extended_ = at<std::uint32_t>(332);
    if (header_bytes_ != kBasicBytes + std::uint64_t{extended_} * kExtendedBytes)
      return corrupt(
          12, fmt::format("headers of {} bytes, but {} extended ones make {}", header_bytes_,
                          extended_, kBasicBytes + std::uint64_t{extended_} * kExtendedBytes));
    if (header_bytes_ > bytes_.size())
      return corrupt(
          12, fmt::format("headers of {} bytes in a file of {}", header_bytes_, bytes_.size()));
    // Timestamp, packet id, class and a reserved byte.
    if (packet_bytes_ < stamp_bytes() + 4 || packet_bytes_ > kMaxPacketBytes)
      return corrupt(16, fmt::format("packets of {} bytes", packet_bytes_));
    if (ticks_per_s_ == 0) return corrupt(20, "a clock of 0 Hz");
    std::array<std::uint16_t, 8> origin;  // year, month, day of week, day, h, min, s, ms; UTC
    for (std::size_t i = 0; i < origin.size(); ++i) origin[i] = at<std::uint16_t>(28 + 2 * i);
    const bool plausible = origin[0] >= 1970 && origin[0] < 10000 && origin[1] >= 1 &&
                           origin[1] <= 12 && origin[3] >= 1 && origin[3] <= 31 && origin[4] < 24 &&
                           origin[5] < 60 && origin[6] < 61 && origin[7] < 1000;
    if (!plausible) return corrupt(28, "its time of origin is no date");
    recording_.session_start_time =
        fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}+00:00", origin[0], origin[1],
                    origin[3], origin[4], origin[5], origin[6], origin[7]);
    recording_.description = fmt::format("Blackrock NEV {}.{}, {}", major, minor, text(44, 32));
    return {};
  }

  Result<void> read_extended() {
    static const std::set<std::string> kPassedOver = {"ECOMMENT", "CCOMMENT", "NEUEVLBL",
                                                      "NEUEVFLT", "DIGLABEL", "VIDEOSYN",
                                                      "TRACKOBJ", "MAPFILE"};
    for (std::uint32_t i = 0; i < extended_; ++i) {
      const std::size_t offset = kBasicBytes + i * kExtendedBytes;
      const std::string kind = text(offset, 8);
      if (kind == "ARRAYNME") {
        array_ = text(offset + 8, 24);
      } else if (kind == "NEUEVWAV") {
        electrodes_.insert(at<std::uint16_t>(offset + 8));
      } else if (!kPassedOver.contains(kind)) {
        return unsupported(offset, fmt::format("extended header '{}' is not known", kind));
      }
    }
    return {};
  }

  /// What a packet's id stands for besides an electrode; empty: not known.
  static std::string_view packet_kind(std::uint16_t id) {
    switch (id) {
      case 0:
        return "digital";
      case 65535:
        return "comment";
      case 65534:
        return "video";
      case 65533:
        return "tracking";
      case 65532:
        return "trigger";
      case 65531:
        return "configuration";
      default:
        return "";
    }
  }

  Result<void> read_packets() {
    const std::size_t data = bytes_.size() - header_bytes_;
    if (data % packet_bytes_ != 0)
      return corrupt(bytes_.size(), fmt::format("the last packet has {} of {} bytes",
                                                data % packet_bytes_, packet_bytes_));
    const std::uint64_t most_electrodes = wide_ ? 10'240 : 2'048;
    std::map<std::int64_t, std::vector<std::uint64_t>> ticks;  // by unit id
    std::uint64_t latest = 0, first = 0, last = 0;
    bool any = false;
    for (std::size_t offset = header_bytes_; offset < bytes_.size(); offset += packet_bytes_) {
      const std::uint64_t stamp = wide_ ? at<std::uint64_t>(offset) : at<std::uint32_t>(offset);
      const auto id = at<std::uint16_t>(offset + stamp_bytes());
      // The rest of a packet that was too long; only comments and the like are.
      if (!wide_ && stamp == 0xFFFFFFFF) continue;
      const bool spike = id >= 1 && id <= most_electrodes;
      if (!spike) {
        if (packet_kind(id).empty())
          return unsupported(offset, fmt::format("packet with id {} is not known", id));
        continue;
      }
      if (any && stamp + ticks_per_s_ < latest)
        return corrupt(offset, fmt::format("the clock goes back from {} to {}: the recording was "
                                           "restarted; split the file",
                                           latest, stamp));
      latest = std::max(latest, stamp);
      first = any ? std::min(first, stamp) : stamp;
      last = std::max(last, stamp);
      any = true;
      const int unit_class = at<std::uint8_t>(offset + stamp_bytes() + 2);
      if (unit_class == kNoise) continue;
      if (unit_class > kMaxClass)
        return corrupt(offset, fmt::format("electrode {} has class {}, neither 0 to {} nor {}", id,
                                           unit_class, kMaxClass, kNoise));
      electrodes_.insert(id);
      ticks[100 * std::int64_t{id} + unit_class].push_back(stamp);
    }
    if (ticks.empty()) return corrupt(header_bytes_, "no spikes in this file");
    // Whole ticks are subtracted, so that no digit of an epoch's clock is lost.
    const bool epoch = static_cast<double>(first) / static_cast<double>(ticks_per_s_) > kEpochS;
    const std::uint64_t zero = epoch ? first : 0;
    fill(ticks, zero, last);
    return {};
  }

  void fill(std::map<std::int64_t, std::vector<std::uint64_t>>& ticks, std::uint64_t zero,
            std::uint64_t last) {
    const auto seconds = [&](std::uint64_t stamp) {
      return static_cast<double>(stamp - zero) / static_cast<double>(ticks_per_s_);
    };
    std::map<std::uint16_t, std::int64_t> rows;
    for (const std::uint16_t electrode : electrodes_) {
      rows[electrode] = static_cast<std::int64_t>(recording_.electrodes.size());
      recording_.electrodes.push_back({electrode, "unknown", array_.empty() ? "array" : array_});
    }
    for (auto& [id, stamps] : ticks) {
      Unit unit;
      unit.id = std::to_string(id);
      unit.electrode = rows.at(static_cast<std::uint16_t>(id / 100));
      std::sort(stamps.begin(), stamps.end());
      for (const std::uint64_t stamp : stamps) unit.spike_times_s.push_back(seconds(stamp));
      unit.observed = {{0, seconds(last) + 1 / static_cast<double>(ticks_per_s_)}};
      recording_.units.push_back(std::move(unit));
    }
  }

  std::size_t stamp_bytes() const { return wide_ ? 8 : 4; }

  std::span<const std::byte> bytes_;
  std::string name_;
  Recording recording_;
  bool wide_ = false;  // 3.0: timestamps of 8 bytes
  std::uint64_t header_bytes_ = 0, packet_bytes_ = 0, ticks_per_s_ = 0;
  std::uint32_t extended_ = 0;
  std::string array_;
  std::set<std::uint16_t> electrodes_;
};

}  // namespace

Result<Recording> read_nev(std::span<const std::byte> bytes, const std::string& name) {
  return Nev(bytes, name).read();
}

}  // namespace cortex
