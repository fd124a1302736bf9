#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

namespace cortex {

/// Threads that share the work of one step at a time.
///
///     StepPool pool(2);
///     pool.begin();                                    // wakes the helpers, once a step
///     pool.run(chunks, [&](int chunk, int thread) {});  // as often as the step needs
///     pool.end();                                      // and parks them
///
/// Between begin and end the helpers spin, so that run() never enters the kernel; outside they
/// sleep. The caller is thread 0 and works too. Each thread has its own share of the chunks and
/// takes from the others' when it is done: a helper that is still waking, or that the system has
/// taken the core from, delays nothing but the chunk it holds. Which thread runs a chunk is left to
/// chance, so a chunk's result must not depend on it.
class StepPool {
 public:
  /// `threads` counts the caller; at least 1.
  /// Each helper first calls `on_helper` with its number, from 1.
  explicit StepPool(int threads, const std::function<void(int thread)>& on_helper = {});
  ~StepPool();
  StepPool(const StepPool&) = delete;
  StepPool& operator=(const StepPool&) = delete;

  int threads() const { return static_cast<int>(shares_.size()); }

  void begin();
  void end();

  /// Calls work(chunk, thread) for every chunk in [0, chunks) and returns when all are done. From
  /// one thread at a time. Helpers take part only between begin and end.
  template <class F>
  void run(int chunks, F&& work) {
    if (threads() == 1 || chunks <= 1 || !awake_) {
      for (int i = 0; i < chunks; ++i) work(i, 0);
      return;
    }
    publish(
        chunks,
        [](void* f, int chunk, int thread) {
          (*static_cast<std::remove_reference_t<F>*>(f))(chunk, thread);
        },
        const_cast<void*>(static_cast<const void*>(&work)));
  }

 private:
  using Call = void (*)(void* work, int chunk, int thread);
  // The next chunk in the upper half, the end of the share in the lower: one compare-and-swap takes
  // a chunk of whatever run the share is of by then, and who holds a chunk holds the run: it cannot
  // end, nor the next begin, until the chunk is done.
  struct alignas(64) Share {
    std::atomic<std::uint64_t> left{0};
  };

  void publish(int chunks, Call call, void* work);
  void take_part(int thread);
  void helper(int thread);

  std::vector<Share> shares_;
  std::vector<std::thread> helpers_;
  bool awake_ = false;                                // the caller's
  alignas(64) std::atomic<std::uint32_t> active_{0};  // odd while helpers are to spin
  std::atomic<bool> stopping_{false};
  alignas(64) std::atomic<std::uint32_t> run_{0};
  std::atomic<Call> call_{nullptr};
  std::atomic<void*> work_{nullptr};
  alignas(64) std::atomic<int> done_{0};
};

}  // namespace cortex
