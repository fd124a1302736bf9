// A log with its input as the records of a block whose checksum is right, so that more than the
// checksum is tried; and the input as a file.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "record/flight_log.h"
#include "record/format.h"

namespace {

using namespace cortex::record;

void append(std::vector<std::byte>& to, const void* from, std::size_t bytes) {
  const auto* begin = static_cast<const std::byte*>(from);
  to.insert(to.end(), begin, begin + bytes);
}

void read(std::span<const std::byte> bytes) {
  const auto log = parse_flight_log(bytes, "log");
  if (!log) return;
  for (const RecordedSession& session : log->sessions)
    for (const RecordedStep& step : session.steps) {
      (void)events_of(step);
      (void)outputs_of(step);
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  read({reinterpret_cast<const std::byte*>(data), size});
  FileHeader file{};
  std::memcpy(file.magic, kFileMagic, sizeof file.magic);
  file.version = kVersion;
  BlockHeader block{kBlockMagic, static_cast<std::uint32_t>(size), 0, 0};
  block.crc = block_crc(block, reinterpret_cast<const std::byte*>(data));
  std::vector<std::byte> log;
  append(log, &file, sizeof file);
  append(log, &block, sizeof block);
  append(log, data, size);
  read(log);
  return 0;
}
