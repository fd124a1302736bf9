#include "dandi/part_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <sstream>
#include <utility>

namespace cortex::dandi {

Error PartFile::failed(const std::string& path, const char* what) const {
  return {ErrorCode::io_error, fmt::format("{}: {}: {}", path, what, std::strerror(errno)), "out"};
}

PartFile::PartFile(PartFile&& other) noexcept
    : target_(std::move(other.target_)),
      part_path_(std::move(other.part_path_)),
      state_path_(std::move(other.state_path_)),
      header_(std::move(other.header_)),
      bytes_(other.bytes_),
      range_bytes_(other.range_bytes_),
      part_(std::exchange(other.part_, -1)),
      state_(std::exchange(other.state_, -1)),
      done_(std::move(other.done_)) {}

PartFile::~PartFile() {
  if (part_ >= 0) ::close(part_);
  if (state_ >= 0) ::close(state_);
}

std::uint64_t PartFile::range_count(std::size_t range) const {
  return std::min(range_bytes_, bytes_ - range_first(range));
}

std::uint64_t PartFile::bytes_done() const {
  std::uint64_t sum = 0;
  for (std::size_t r = 0; r < done_.size(); ++r) sum += done_[r] != 0 ? range_count(r) : 0;
  return sum;
}

Result<PartFile> PartFile::open(const std::string& target, const std::string& identity,
                                std::uint64_t bytes, std::uint64_t range_bytes) {
  PartFile file;
  file.target_ = target;
  file.part_path_ = target + ".part";
  file.state_path_ = target + ".part.state";
  file.bytes_ = bytes;
  file.range_bytes_ = range_bytes;
  file.done_.assign((bytes + range_bytes - 1) / range_bytes, 0);
  file.header_ = fmt::format("cortex-part 1 {} {} {}\n", bytes, range_bytes, identity);
  std::error_code failure;
  const auto folder = std::filesystem::path(target).parent_path();
  if (!folder.empty()) std::filesystem::create_directories(folder, failure);
  if (failure)
    return Error{ErrorCode::io_error,
                 fmt::format("{}: cannot create: {}", folder.string(), failure.message()), "out"};
  constexpr int kFlags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW;
  file.state_ = ::open(file.state_path_.c_str(), kFlags | O_APPEND, 0644);
  if (file.state_ < 0) return file.failed(file.state_path_, "cannot open");
  if (::flock(file.state_, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return file.failed(file.state_path_, "cannot lock");
    return Error{ErrorCode::unavailable,
                 fmt::format("{}: another download is writing this file", file.part_path_), "out"};
  }
  file.part_ = ::open(file.part_path_.c_str(), kFlags, 0644);
  if (file.part_ < 0) return file.failed(file.part_path_, "cannot open");
  struct stat info {};
  if (::fstat(file.part_, &info) != 0) return file.failed(file.part_path_, "cannot stat");
  if (static_cast<std::uint64_t>(info.st_size) == bytes) {
    if (auto ok = file.read_state(file.header_); !ok) return ok.error();
  } else if (auto ok = file.restart(); !ok) {
    return ok.error();
  }
  return file;
}

Result<void> PartFile::read_state(const std::string& header) {
  std::string text;
  char buffer[65536];
  for (ssize_t n; (n = ::read(state_, buffer, sizeof buffer)) != 0;) {
    if (n < 0) return failed(state_path_, "cannot read");
    text.append(buffer, static_cast<std::size_t>(n));
  }
  if (!text.starts_with(header)) return restart();
  // A line without its end was being written when the process died, and counts for nothing.
  const std::size_t end = text.rfind('\n') + 1;
  std::istringstream lines(text.substr(header.size(), end - header.size()));
  for (std::string line; std::getline(lines, line);) {
    std::size_t range = 0;
    const char* stop = line.data() + line.size();
    const auto [at, failure] = std::from_chars(line.data(), stop, range);
    if (failure != std::errc() || at != stop || range >= done_.size()) return restart();
    done_[range] = 1;
  }
  if (end != text.size() && ::ftruncate(state_, static_cast<off_t>(end)) != 0)
    return failed(state_path_, "cannot shorten");
  return {};
}

Result<void> PartFile::restart() {
  std::fill(done_.begin(), done_.end(), std::uint8_t{0});
  // The state goes first: no moment has ranges claimed of a file that is being emptied.
  if (::ftruncate(state_, 0) != 0) return failed(state_path_, "cannot empty");
  if (::ftruncate(part_, 0) != 0 || ::ftruncate(part_, static_cast<off_t>(bytes_)) != 0)
    return failed(part_path_, "cannot resize");
  // Reserves the blocks where the file system can; a full disk shows now and not at the end.
  if (bytes_ > 0 && ::fallocate(part_, 0, 0, static_cast<off_t>(bytes_)) != 0 &&
      errno != EOPNOTSUPP && errno != ENOSYS)
    return failed(part_path_, "cannot reserve space");
  return append(header_);
}

Result<void> PartFile::append(const std::string& line) {
  // One write to a file opened for appending: lines of several threads do not mix.
  const ssize_t n = ::write(state_, line.data(), line.size());
  if (n != static_cast<ssize_t>(line.size())) return failed(state_path_, "cannot write");
  return {};
}

Result<void> PartFile::write(std::uint64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(part_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return failed(part_path_, "cannot write");
    offset += static_cast<std::uint64_t>(n);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
  return {};
}

Result<void> PartFile::mark_done(std::size_t range) {
  if (::fdatasync(part_) != 0) return failed(part_path_, "cannot sync");
  if (auto ok = append(fmt::format("{}\n", range)); !ok) return ok;
  done_[range] = 1;
  return {};
}

Result<void> PartFile::finish() {
  if (::fsync(part_) != 0) return failed(part_path_, "cannot sync");
  if (std::rename(part_path_.c_str(), target_.c_str()) != 0)
    return failed(target_, "cannot rename into place");
  if (::unlink(state_path_.c_str()) != 0) return failed(state_path_, "cannot remove");
  return {};
}

void PartFile::discard() {
  ::unlink(part_path_.c_str());
  ::unlink(state_path_.c_str());
}

std::uint64_t part_bytes_on_disk(const std::string& target) {
  struct stat info {};
  if (::stat((target + ".part").c_str(), &info) != 0) return 0;
  return static_cast<std::uint64_t>(info.st_blocks) * 512;
}

}  // namespace cortex::dandi
