#pragma once

#include <cortex/engine.h>

#include <bit>
#include <cstddef>
#include <cstdint>

/// The file of a flight recorder, little-endian, all of it aligned to 8 bytes:
///
///     file   = FileHeader block*
///     block  = BlockHeader record*      synced before the next one is begun
///     record = RecordHeader body
///
/// The first block begins with the record `about`; a log that ended by itself ends with the record
/// `end`, which has no body. Bodies of `about`, `opened` and `closed` are JSON, padded with spaces.
namespace cortex::record {

inline constexpr char kFileMagic[8] = {'C', 'O', 'R', 'T', 'E', 'X', 'F', 'R'};
inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::uint32_t kBlockMagic = 0x4b4c4243;  // "CBLK"

struct FileHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t reserved;
};

struct BlockHeader {
  std::uint32_t magic;
  std::uint32_t bytes;   ///< of the records
  std::uint32_t number;  ///< from 0
  std::uint32_t crc;     ///< CRC-32 of the header with 0 here, then of the records
};

enum class Kind : std::uint16_t { about = 1, opened, closed, step, answer, lost, end };

struct RecordHeader {
  std::uint32_t bytes;  ///< header included, a multiple of 8
  Kind kind;
  std::uint16_t reserved;
};

/// A step that the engine took; followed by its events as the client gave them.
struct StepBody {
  std::uint64_t session;
  std::int64_t sequence;
  std::int64_t gap;
  std::int64_t deadline_ns;
  std::uint32_t best_effort;
  std::uint32_t events;
};

/// Its answer, before or after it in the file; followed by the outputs, float32.
struct AnswerBody {
  std::uint64_t session;
  std::int64_t sequence;
  std::int64_t submitted_ns;
  std::int64_t started_ns;
  std::int64_t finished_ns;
  std::int64_t dropped_events;
  std::int32_t batch_size;
  std::uint8_t status;  ///< StepStatus
  std::uint8_t error;   ///< ErrorCode + 1; 0: none
  std::uint16_t outputs;
};

/// Steps and answers that could not be recorded since the last such record.
struct LostBody {
  std::int64_t records;
};

static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(FileHeader) == 16 && sizeof(BlockHeader) == 16 && sizeof(RecordHeader) == 8);
static_assert(sizeof(StepBody) == 40 && sizeof(AnswerBody) == 56 && sizeof(LostBody) == 8);
static_assert(sizeof(Event) == 16 && offsetof(Event, value) == 4 && offsetof(Event, bin) == 8);

constexpr std::size_t padded(std::size_t bytes) { return (bytes + 7) / 8 * 8; }

/// CRC-32 of a block: `header.crc` does not count.
std::uint32_t block_crc(BlockHeader header, const std::byte* records);

}  // namespace cortex::record
