#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/clock.h"

namespace cortex {

/// Work that is ready to run: the owner's key and when its answer is due.
struct ReadyWork {
  TimeNs deadline = kNever;
  std::uint64_t order = 0;  ///< of arrival; breaks ties, so equal deadlines are served in turn
  std::uint64_t key = 0;
};

/// Earliest deadline first. Pure: no clock, no thread, no lock.
class EdfQueue {
 public:
  /// Up to `n` entries, push() allocates nothing.
  void reserve(std::size_t n) { heap_.reserve(n); }
  void push(TimeNs deadline, std::uint64_t key);
  ReadyWork pop();
  /// Takes the entries of `key` out, wherever they are.
  void erase(std::uint64_t key);
  /// Takes out the entries whose key `gone` says yes to, asked once an entry.
  template <class Gone>
  void erase_if(Gone gone) {
    const auto end = std::remove_if(heap_.begin(), heap_.end(),
                                    [&](const ReadyWork& work) { return gone(work.key); });
    heap_.erase(end, heap_.end());
    rebuild();
  }
  bool empty() const { return heap_.empty(); }
  std::size_t size() const { return heap_.size(); }

 private:
  void rebuild();
  std::vector<ReadyWork> heap_;
  std::uint64_t arrivals_ = 0;
};

/// Takes the next batch: as much as is ready, earliest deadline first, up to `max_batch`. There is
/// no wait for more: a batch leaves as soon as the device is free.
void form_batch(EdfQueue& queue, std::size_t max_batch, std::vector<std::uint64_t>& batch);

}  // namespace cortex
