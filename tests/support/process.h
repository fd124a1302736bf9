#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/paths.h"

/// Programs as a user runs them.
///
///     const auto ran = cortex::testing::run({"cortex", "--version"});
///     EXPECT_EQ(ran.code, 0) << ran.err;
namespace cortex::testing {

/// Starts a program with more in its environment, NAME=VALUE each, and nothing on standard output.
inline pid_t start_program(std::vector<std::string> command,
                           const std::vector<std::string>& variables = {}) {
  std::vector<char*> argv;
  argv.reserve(command.size() + 1);
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return child;
  ::dup2(::open("/dev/null", O_WRONLY), STDOUT_FILENO);
  for (const std::string& v : variables) ::putenv(const_cast<char*>(v.c_str()));
  ::execv(argv[0], argv.data());
  ::_exit(127);
}

struct Ran {
  int code = 0;  ///< exit status; 128 + the signal's number if one ended it
  std::string out;
  std::string err;
};

/// A program under way, its output in files. Killed at the end of the scope.
class Process {
 public:
  explicit Process(std::vector<std::string> command) {
    std::vector<char*> argv;
    argv.reserve(command.size() + 1);
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    const std::string out = folder_.file("out");
    const std::string err = folder_.file("err");
    pid_ = ::fork();
    if (pid_ != 0) return;
    redirect("/dev/null", O_RDONLY, STDIN_FILENO);
    redirect(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, STDOUT_FILENO);
    redirect(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, STDERR_FILENO);
    ::execvp(argv[0], argv.data());
    ::_exit(127);
  }
  ~Process() {
    if (pid_ <= 0) return;
    signal(SIGKILL);
    wait();
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  void signal(int number) const { ::kill(pid_, number); }
  std::string out() const { return text("out"); }
  std::string err() const { return text("err"); }

  /// Whether `what` appears on standard output or error before the time is over.
  bool says(const std::string& what, std::chrono::seconds within = std::chrono::seconds(60)) const {
    const auto until = std::chrono::steady_clock::now() + within;
    while (std::chrono::steady_clock::now() < until) {
      if ((out() + err()).find(what) != std::string::npos) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  Ran wait() {
    int status = 0;
    ::waitpid(std::exchange(pid_, -1), &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), out(), err()};
  }

 private:
  static void redirect(const char* path, int flags, int onto) {
    const int file = ::open(path, flags, 0600);
    ::dup2(file, onto);
    ::close(file);
  }
  std::string text(const std::string& name) const {
    std::ifstream file(folder_.file(name));
    std::stringstream all;
    all << file.rdbuf();
    return all.str();
  }

  TempDir folder_;
  pid_t pid_ = -1;
};

inline Ran run(std::vector<std::string> command) { return Process(std::move(command)).wait(); }

}  // namespace cortex::testing
