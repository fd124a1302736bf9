#include "record/log_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "record/format.h"

namespace cortex::record {

std::uint32_t block_crc(BlockHeader header, const std::byte* records) {
  header.crc = 0;
  const uLong crc = ::crc32(0, reinterpret_cast<const Bytef*>(&header), sizeof header);
  return static_cast<std::uint32_t>(
      ::crc32(crc, reinterpret_cast<const Bytef*>(records), header.bytes));
}

Error LogFile::failed(const char* what) const {
  return {ErrorCode::io_error, fmt::format("{}: {}: {}", path_, what, std::strerror(errno)),
          "record"};
}

Result<LogFile> LogFile::create(const std::string& path) {
  LogFile file(path, ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.fd_ < 0) return file.failed("cannot be made");
  FileHeader header{};
  std::memcpy(header.magic, kFileMagic, sizeof header.magic);
  header.version = kVersion;
  if (auto ok = file.write(std::as_bytes(std::span(&header, 1)), 0); !ok) return ok.error();
  file.end_ = sizeof header;
  // The name itself must outlast a power cut.
  const std::string folder = std::filesystem::absolute(path).parent_path().string();
  const int fd = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd >= 0) {
    ::fsync(fd);
    ::close(fd);
  }
  return file;
}

LogFile::LogFile(LogFile&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      end_(other.end_),
      blocks_(other.blocks_) {}

LogFile::~LogFile() {
  if (fd_ >= 0) ::close(fd_);
}

Result<void> LogFile::write(std::span<const std::byte> bytes, std::int64_t at) const {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto n = ::pwrite(fd_, bytes.data() + done, bytes.size() - done,
                            at + static_cast<std::int64_t>(done));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return failed("cannot be written");
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<void> LogFile::append(std::span<const std::byte> records) {
  BlockHeader header{kBlockMagic, static_cast<std::uint32_t>(records.size()), blocks_, 0};
  header.crc = block_crc(header, records.data());
  auto done = write(std::as_bytes(std::span(&header, 1)), end_);
  if (done) done = write(records, end_ + static_cast<std::int64_t>(sizeof header));
  if (done && ::fdatasync(fd_) != 0) done = failed("cannot be synced");
  if (!done) {
    // A part of a block at the end is no harm, but it holds room that others may need.
    [[maybe_unused]] const int ignored = ::ftruncate(fd_, end_);
    return done;
  }
  end_ += static_cast<std::int64_t>(sizeof header + records.size());
  ++blocks_;
  return {};
}

}  // namespace cortex::record
