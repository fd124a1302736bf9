#include "core/step_pool.h"

#include <algorithm>

#include "core/thread.h"

namespace cortex {
namespace {

constexpr std::uint64_t kOneChunk = std::uint64_t{1} << 32;

/// The chunks that fall to a thread first.
std::uint64_t share_of(int chunks, int thread, int threads) {
  const auto part = [&](int t) {
    return static_cast<std::uint64_t>(chunks) * static_cast<std::uint64_t>(t) /
           static_cast<std::uint64_t>(threads);
  };
  return part(thread) * kOneChunk | part(thread + 1);
}

}  // namespace

StepPool::StepPool(int threads, const std::function<void(int thread)>& on_helper)
    : shares_(static_cast<std::size_t>(std::max(1, threads))) {
  for (int t = 1; t < this->threads(); ++t)
    helpers_.emplace_back([this, t, on_helper] {
      name_this_thread("cortex-step");
      if (on_helper) on_helper(t);
      helper(t);
    });
}

StepPool::~StepPool() {
  stopping_.store(true);
  active_.fetch_add(active_.load() % 2 == 0 ? 1 : 2);
  active_.notify_all();
  for (std::thread& t : helpers_) t.join();
}

void StepPool::begin() {
  if (awake_ || helpers_.empty()) return;
  awake_ = true;
  active_.fetch_add(1, std::memory_order_release);
  active_.notify_all();
}

void StepPool::end() {
  if (!awake_) return;
  awake_ = false;
  active_.fetch_add(1, std::memory_order_release);
}

void StepPool::publish(int chunks, Call call, void* work) {
  // No chunk of the run before is left to take or in anybody's hands.
  call_.store(call, std::memory_order_relaxed);
  work_.store(work, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  for (int t = 0; t < threads(); ++t)
    shares_[static_cast<std::size_t>(t)].left.store(share_of(chunks, t, threads()),
                                                    std::memory_order_release);
  run_.fetch_add(1, std::memory_order_release);
  take_part(0);
  while (done_.load(std::memory_order_acquire) != chunks) relax_cpu();
}

void StepPool::take_part(int thread) {
  for (int i = 0; i < threads(); ++i) {
    Share& share = shares_[static_cast<std::size_t>((thread + i) % threads())];
    std::uint64_t left = share.left.load(std::memory_order_acquire);
    while (left >> 32 < static_cast<std::uint32_t>(left)) {
      if (!share.left.compare_exchange_weak(left, left + kOneChunk, std::memory_order_acq_rel,
                                            std::memory_order_acquire))
        continue;
      // Only now: before, they could have been of another run.
      const Call call = call_.load(std::memory_order_relaxed);
      call(work_.load(std::memory_order_relaxed), static_cast<int>(left >> 32), thread);
      done_.fetch_add(1, std::memory_order_acq_rel);
      left = share.left.load(std::memory_order_acquire);
    }
  }
}

void StepPool::helper(int thread) {
  for (;;) {
    const std::uint32_t active = active_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (active % 2 == 0) {
      active_.wait(active, std::memory_order_acquire);
      continue;
    }
    std::uint32_t seen = run_.load(std::memory_order_acquire);
    take_part(thread);
    while (active_.load(std::memory_order_acquire) == active) {
      const std::uint32_t run = run_.load(std::memory_order_acquire);
      if (run == seen) {
        relax_cpu();
        continue;
      }
      seen = run;
      take_part(thread);
    }
  }
}

}  // namespace cortex
