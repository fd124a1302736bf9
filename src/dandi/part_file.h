#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace cortex::dandi {

/// A file that arrives in ranges: TARGET.part, and beside it TARGET.part.state, a line of text that
/// says what it will be and then a line for each range that is there whole and on the disk. Killed
/// at any moment it is opened again with no range claimed that is not there. Safe to use from
/// several threads on different ranges.
class PartFile {
 public:
  /// `identity` names the content (no line break): a state of another identity, size or range
  /// length is discarded, as is one without its file. unavailable: another process has it;
  /// io_error: the operating system's word.
  static Result<PartFile> open(const std::string& target, const std::string& identity,
                               std::uint64_t bytes, std::uint64_t range_bytes);
  PartFile(PartFile&& other) noexcept;
  PartFile& operator=(PartFile&&) = delete;
  ~PartFile();

  std::size_t ranges() const { return done_.size(); }
  std::uint64_t range_first(std::size_t range) const { return range * range_bytes_; }
  std::uint64_t range_count(std::size_t range) const;
  bool done(std::size_t range) const { return done_[range] != 0; }
  /// Bytes of the ranges that are done.
  std::uint64_t bytes_done() const;

  Result<void> write(std::uint64_t offset, std::span<const std::byte> bytes);
  /// Syncs the data, then says so in the state.
  Result<void> mark_done(std::size_t range);
  /// Forgets every range.
  Result<void> restart();
  /// Syncs, gives the file its own name and removes the state.
  Result<void> finish();
  /// Removes file and state.
  void discard();

  const std::string& part_path() const { return part_path_; }

 private:
  PartFile() = default;
  Error failed(const std::string& path, const char* what) const;
  Result<void> append(const std::string& line);
  Result<void> read_state(const std::string& header);

  std::string target_, part_path_, state_path_, header_;
  std::uint64_t bytes_ = 0, range_bytes_ = 0;
  int part_ = -1, state_ = -1;
  std::vector<std::uint8_t> done_;
};

/// Bytes of TARGET.part that the disk holds already; 0 where there is none.
std::uint64_t part_bytes_on_disk(const std::string& target);

}  // namespace cortex::dandi
