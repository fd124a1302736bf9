#include "core/step_pool.h"

#include <algorithm>

#include "core/thread.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cortex {
namespace {

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

}  // namespace

StepPool::StepPool(int threads) : shares_(static_cast<std::size_t>(std::max(1, threads))) {
  for (int t = 1; t < this->threads(); ++t) helpers_.emplace_back([this, t] { helper(t); });
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
  // Nobody holds a chunk of the run before: these change under no reader that could act on them.
  const std::uint32_t run = run_.load(std::memory_order_relaxed) + 1;
  call_.store(call, std::memory_order_relaxed);
  work_.store(work, std::memory_order_relaxed);
  chunks_.store(chunks, std::memory_order_relaxed);
  done_.store(0, std::memory_order_relaxed);
  for (int t = 0; t < threads(); ++t)
    shares_[static_cast<std::size_t>(t)].next.store(
        std::uint64_t{run} << 32 | static_cast<std::uint32_t>(chunks * t / threads()),
        std::memory_order_release);
  run_.store(run, std::memory_order_release);
  take_part(run, 0);
  while (done_.load(std::memory_order_acquire) != chunks) relax();
}

void StepPool::take_part(std::uint32_t run, int thread) {
  const Call call = call_.load(std::memory_order_relaxed);
  void* const work = work_.load(std::memory_order_relaxed);
  const int chunks = chunks_.load(std::memory_order_relaxed);
  for (int i = 0; i < threads(); ++i) {
    const int owner = (thread + i) % threads();
    Share& share = shares_[static_cast<std::size_t>(owner)];
    const auto end = static_cast<std::uint32_t>(chunks * (owner + 1) / threads());
    std::uint64_t next = share.next.load(std::memory_order_acquire);
    while (next >> 32 == run && static_cast<std::uint32_t>(next) < end) {
      if (!share.next.compare_exchange_weak(next, next + 1, std::memory_order_acq_rel)) continue;
      call(work, static_cast<int>(static_cast<std::uint32_t>(next)), thread);
      done_.fetch_add(1, std::memory_order_acq_rel);
      next = share.next.load(std::memory_order_acquire);
    }
  }
}

void StepPool::helper(int thread) {
  name_this_thread("cortex-step");
  for (;;) {
    const std::uint32_t active = active_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    if (active % 2 == 0) {
      active_.wait(active, std::memory_order_acquire);
      continue;
    }
    std::uint32_t seen = run_.load(std::memory_order_acquire);
    take_part(seen, thread);
    while (active_.load(std::memory_order_acquire) == active) {
      const std::uint32_t run = run_.load(std::memory_order_acquire);
      if (run == seen) {
        relax();
        continue;
      }
      seen = run;
      take_part(run, thread);
    }
  }
}

}  // namespace cortex
