#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <string>

namespace cortex::log {

/// Writes lines to a file descriptor on a thread of its own. The queue is bounded; what does not
/// fit or cannot be written is dropped and counted.
class Writer {
 public:
  /// `fd` stays the caller's.
  explicit Writer(int fd);
  /// Waits for what is queued a second at most: a pipe that nobody reads keeps no process alive.
  ~Writer();
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void put(std::string line);
  void flush(std::chrono::milliseconds patience);
  std::int64_t lost() const;

 private:
  /// Shared with the thread, which may outlive the writer while a write does not return.
  struct State;
  static void run(const std::shared_ptr<State>& state);

  std::shared_ptr<State> state_;
};

}  // namespace cortex::log
