#include "bench_team.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "core/clock.h"
#include "core/thread.h"

namespace cortex {
namespace {

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core)
    if (CPU_ISSET(core, &set)) cores.push_back(core);
  return cores;
}

}  // namespace

BenchTeam::BenchTeam(int threads) {
  const std::vector<int> cores = allowed_cores();
  for (int i = 0; i < threads; ++i) {
    const auto at = static_cast<std::size_t>(i);
    // More threads than cores: the kernel places them.
    const int core = static_cast<std::size_t>(threads) <= cores.size() ? cores[at] : -1;
    threads_.emplace_back([this, i, core] { serve(i, core); });
  }
}

BenchTeam::~BenchTeam() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void BenchTeam::serve(int index, int core) {
  if (core >= 0) pin_this_thread(core);
  std::uint64_t seen = 0;
  for (;;) {
    const std::function<void(int)>* work = nullptr;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stopping_ || round_ != seen; });
      if (stopping_) return;
      seen = round_;
      work = work_;
    }
    (*work)(index);
    const std::lock_guard lock(mutex_);
    if (--running_ == 0) done_.notify_one();
  }
}

void BenchTeam::run(const std::function<void(int)>& work) {
  std::unique_lock lock(mutex_);
  work_ = &work;
  running_ = size();
  ++round_;
  wake_.notify_all();
  done_.wait(lock, [&] { return running_ == 0; });
}

double BenchTeam::time(const std::function<void(int)>& work) {
  const Clock& clock = RealClock::instance();
  std::atomic<int> arrived{0};
  std::vector<TimeNs> start(threads_.size()), end(threads_.size());
  run([&](int i) {
    const auto at = static_cast<std::size_t>(i);
    arrived.fetch_add(1);
    // Yield: with more threads than cores, the one awaited may need this core.
    while (arrived.load() < size()) std::this_thread::yield();
    start[at] = clock.now();
    work(i);
    end[at] = clock.now();
  });
  return static_cast<double>(*std::max_element(end.begin(), end.end()) -
                             *std::min_element(start.begin(), start.end())) *
         1e-9;
}

CacheEvictor::CacheEvictor(double megabytes, int threads)
    : share_(static_cast<std::size_t>(megabytes * 1e6 / threads) / sizeof(std::uint64_t)),
      team_(share_ > 0 ? threads : 0) {
  // First touched here: pages of zeros that nobody wrote share one cached page.
  for (int i = 0; i < team_.size(); ++i) buffers_.emplace_back(share_, 1);
}

void CacheEvictor::run() {
  if (share_ == 0) return;
  team_.run([&](int i) {
    for (std::uint64_t& word : buffers_[static_cast<std::size_t>(i)]) word += 1;
  });
}

}  // namespace cortex
