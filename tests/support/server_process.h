#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <string>
#include <utility>
#include <vector>

namespace cortex::testing {

/// A server as a process of its own, ready once the object is there: it prints a line that ends in
/// its URL.
class ServerProcess {
 public:
  explicit ServerProcess(std::vector<std::string> command) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) return;
    std::vector<char*> argv;
    argv.reserve(command.size() + 1);
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ == 0) {
      ::dup2(ends[1], 1);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    ::close(ends[1]);
    output_ = ends[0];
    while (line_.find("cortex: serving ") == std::string::npos && read_line()) {
    }
  }
  ~ServerProcess() {
    kill();
    if (output_ >= 0) ::close(output_);
  }
  ServerProcess(const ServerProcess&) = delete;
  ServerProcess& operator=(const ServerProcess&) = delete;

  void signal(int number) const { ::kill(pid_, number); }
  /// As a power cut would.
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  }
  const std::string& line() const { return line_; }
  std::string url() const { return line_.substr(line_.rfind(' ') + 1); }
  std::string port() const { return url().substr(url().rfind(':') + 1); }

 private:
  bool read_line() {
    line_.clear();
    char c = 0;
    while (::read(output_, &c, 1) == 1) {
      if (c == '\n') return true;
      line_ += c;
    }
    return false;
  }

  pid_t pid_ = -1;
  int output_ = -1;
  std::string line_;
};

}  // namespace cortex::testing
