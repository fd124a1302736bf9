#include "core/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

namespace cortex {
namespace {

/// Owns a file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  bool close() {
    const int fd = std::exchange(fd_, -1);
    return fd < 0 || ::close(fd) == 0;
  }

 private:
  int fd_;
};

Error failed(const std::string& path, const char* what) {
  const int e = errno;
  return {e == ENOENT ? ErrorCode::not_found : ErrorCode::io_error,
          fmt::format("{}: {}: {}", path, what, std::strerror(e)), "path"};
}

}  // namespace

Result<std::vector<std::byte>> read_file(const std::string& path) {
  Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) return failed(path, "cannot open");
  struct stat info {};
  if (::fstat(fd.get(), &info) != 0) return failed(path, "cannot stat");
  if (!S_ISREG(info.st_mode))
    return Error{ErrorCode::invalid_argument, fmt::format("{}: not a regular file", path), "path"};
  std::vector<std::byte> bytes(static_cast<std::size_t>(info.st_size));
  std::size_t done = 0;
  while (done < bytes.size()) {
    const ssize_t n = ::read(fd.get(), bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(path, "cannot read");
    if (n == 0) break;
    done += static_cast<std::size_t>(n);
  }
  bytes.resize(done);
  return bytes;
}

Result<void> write_file_atomic(const std::string& path, std::span<const std::byte> bytes) {
  const std::string part = fmt::format("{}.{}.part", path, ::getpid());
  {
    Descriptor fd(::open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (fd.get() < 0) return failed(part, "cannot create");
    std::size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = ::write(fd.get(), bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) {
        Error error = failed(part, "cannot write");
        ::unlink(part.c_str());
        return error;
      }
      done += static_cast<std::size_t>(n);
    }
    if (::fsync(fd.get()) != 0 || !fd.close()) {
      Error error = failed(part, "cannot sync");
      ::unlink(part.c_str());
      return error;
    }
  }
  if (std::rename(part.c_str(), path.c_str()) != 0) {
    Error error = failed(path, "cannot rename into place");
    ::unlink(part.c_str());
    return error;
  }
  return {};
}

}  // namespace cortex
