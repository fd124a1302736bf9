#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace cortex::record {

/// A recorder's file while it is written: blocks, each synced before the next.
class LogFile {
 public:
  /// A new file, for its owner alone; io_error where it cannot be made or exists.
  static Result<LogFile> create(const std::string& path);
  LogFile(LogFile&& other) noexcept;
  LogFile& operator=(LogFile&&) = delete;
  ~LogFile();

  /// Writes the records as the next block and syncs them. io_error: the block is not in the file,
  /// those before it are, and the next call takes its place.
  Result<void> append(std::span<const std::byte> records);

  const std::string& path() const { return path_; }

 private:
  LogFile(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}
  Result<void> write(std::span<const std::byte> bytes, std::int64_t at) const;
  Error failed(const char* what) const;

  std::string path_;
  int fd_ = -1;
  std::int64_t end_ = 0;  // of what is whole and synced
  std::uint32_t blocks_ = 0;
};

}  // namespace cortex::record
