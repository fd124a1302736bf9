#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace cortex {

/// Threads that stay, one bound to each of the first cores this process may use, and wait asleep.
class BenchTeam {
 public:
  explicit BenchTeam(int threads);
  ~BenchTeam();
  BenchTeam(const BenchTeam&) = delete;
  BenchTeam& operator=(const BenchTeam&) = delete;

  int size() const { return static_cast<int>(threads_.size()); }
  /// work(i) on every thread i; returns when all have returned.
  void run(const std::function<void(int)>& work);
  /// The same, all at once: seconds from the first start to the last end.
  double time(const std::function<void(int)>& work);

 private:
  void serve(int index, int core);

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  const std::function<void(int)>* work_ = nullptr;
  std::uint64_t round_ = 0;
  int running_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

/// Empties the caches of other data: every thread of the team streams over its share of a buffer.
class CacheEvictor {
 public:
  /// Nothing to do where `megabytes` is 0.
  CacheEvictor(double megabytes, int threads);
  void run();

 private:
  std::size_t share_ = 0;
  std::vector<std::vector<std::uint64_t>> buffers_;
  BenchTeam team_;
};

}  // namespace cortex
