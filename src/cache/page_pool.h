#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <vector>

namespace cortex {

/// Which pages of a pool are taken. Knows numbers, not memory: the engine owns the bytes. A session
/// takes all the pages of its full context at once or none, so nothing live is ever evicted.
class PagePool {
 public:
  explicit PagePool(std::int32_t pages);

  /// `count` pages, or resource_exhausted when fewer are free.
  Result<std::vector<std::int32_t>> acquire(std::int32_t count);
  /// Gives pages back. A page that is not taken is an invalid_argument error and nothing changes.
  Result<void> release(const std::vector<std::int32_t>& pages);

  std::int32_t total() const { return static_cast<std::int32_t>(taken_.size()); }
  std::int32_t used() const { return total() - static_cast<std::int32_t>(free_.size()); }

 private:
  std::vector<std::int32_t> free_;
  std::vector<bool> taken_;
};

/// Steps of a page whose keys, R a step, fill whole vectors of any backend.
constexpr int page_steps_for(int latents) {
  constexpr int kSteps = 8, kKeyLanes = 32;
  int steps = kSteps;
  while (steps * latents % kKeyLanes != 0) steps += kSteps;
  return steps;
}

/// How a stream's K and V are cut into pages.
struct PageLayout {
  int layers = 0;
  int latents = 0;
  int dim = 0;
  int window_steps = 0;
  int page_steps = 0;
  int element_bytes = 4;

  std::int32_t pages_per_session() const { return (window_steps + page_steps - 1) / page_steps; }
  std::int64_t page_bytes() const {
    return std::int64_t{2} * layers * page_steps * latents * dim * element_bytes;
  }
};

}  // namespace cortex
