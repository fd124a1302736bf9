#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "scheduler/work.h"

namespace cortex {

/// Whether `a` is due before `b`; equal times are served in order of arrival.
inline bool due_before(const Work& a, const Work& b) {
  return a.due != b.due ? a.due < b.due : a.order < b.order;
}

/// Work in the order in which it is due. Pure: no clock, no thread, no lock. Up to the size that
/// was reserved, push() allocates nothing.
///
/// Two of the same face: a heap, for many entries; and an array that stays sorted, for some
/// hundreds, which can be walked over.
class WorkHeap {
 public:
  void reserve(std::size_t n) { heap_.reserve(n); }
  void push(Work work) {
    work.order = arrivals_++;
    heap_.push_back(work);
    std::push_heap(heap_.begin(), heap_.end(), due_after);
  }
  const Work& front() const { return heap_.front(); }
  void pop() {
    std::pop_heap(heap_.begin(), heap_.end(), due_after);
    heap_.pop_back();
  }
  /// Takes out the entries that `gone` says yes to, asked once an entry; how many.
  template <class Gone>
  int erase_if(Gone gone) {
    const auto erased = std::erase_if(heap_, gone);
    std::make_heap(heap_.begin(), heap_.end(), due_after);
    return static_cast<int>(erased);
  }
  bool empty() const { return heap_.empty(); }
  std::size_t size() const { return heap_.size(); }

 private:
  static bool due_after(const Work& a, const Work& b) { return due_before(b, a); }
  std::vector<Work> heap_;
  std::uint64_t arrivals_ = 0;
};

class WorkList {
 public:
  void reserve(std::size_t n) { latest_first_.reserve(n); }
  void push(Work work) {
    work.order = arrivals_++;
    const auto place =
        std::upper_bound(latest_first_.begin(), latest_first_.end(), work,
                         [](const Work& a, const Work& b) { return due_before(b, a); });
    latest_first_.insert(place, work);
  }
  const Work& front() const { return latest_first_.back(); }
  void pop() { latest_first_.pop_back(); }
  template <class Gone>
  int erase_if(Gone gone) {
    return static_cast<int>(std::erase_if(latest_first_, gone));
  }
  bool empty() const { return latest_first_.empty(); }
  std::size_t size() const { return latest_first_.size(); }

  /// The i-th that is due.
  const Work& operator[](std::size_t i) const {
    return *(latest_first_.rbegin() + static_cast<std::ptrdiff_t>(i));
  }
  /// How many are due before work would be that comes now.
  std::size_t rank(TimeNs due) const {
    const auto after = std::partition_point(latest_first_.begin(), latest_first_.end(),
                                            [due](const Work& work) { return work.due > due; });
    return static_cast<std::size_t>(latest_first_.end() - after);
  }

 private:
  std::vector<Work> latest_first_;
  std::uint64_t arrivals_ = 0;
};

}  // namespace cortex
