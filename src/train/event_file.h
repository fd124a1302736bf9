#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace cortex::train {

/// Scalars in TensorBoard's format: length-delimited records with masked CRC-32C, each an Event
/// message of protocol buffers (tensorflow/core/util/event.proto).
///
///     EventFile events("run/events.out.tfevents.1700000000.run");
///     events.append(100, {{"loss", 0.25}}, 1700000001.5);
class EventFile {
 public:
  explicit EventFile(std::string path);

  const std::string& path() const { return path_; }
  /// Adds one event with all `scalars` of `step`; a new file gets its header first. io_error.
  Result<void> append(std::int64_t step, const std::vector<std::pair<std::string, double>>& scalars,
                      double wall_time_s);

 private:
  std::string path_;
};

/// Castagnoli's CRC (polynomial 0x1EDC6F41, reflected), as in RFC 3720.
std::uint32_t crc32c(const std::string& bytes);

}  // namespace cortex::train
