#include "scheduler/batch_former.h"

#include <algorithm>

namespace cortex {
namespace {

bool later(const ReadyWork& a, const ReadyWork& b) {
  return a.deadline != b.deadline ? a.deadline > b.deadline : a.order > b.order;
}

}  // namespace

void EdfQueue::push(TimeNs deadline, std::uint64_t key) {
  heap_.push_back({deadline, arrivals_++, key});
  std::push_heap(heap_.begin(), heap_.end(), later);
}

ReadyWork EdfQueue::pop() {
  std::pop_heap(heap_.begin(), heap_.end(), later);
  const ReadyWork next = heap_.back();
  heap_.pop_back();
  return next;
}

void EdfQueue::erase(std::uint64_t key) {
  erase_if([&](std::uint64_t k) { return k == key; });
}

void EdfQueue::rebuild() { std::make_heap(heap_.begin(), heap_.end(), later); }

void form_batch(EdfQueue& queue, std::size_t max_batch, std::vector<std::uint64_t>& batch) {
  batch.clear();
  while (!queue.empty() && batch.size() < max_batch) batch.push_back(queue.pop().key);
}

}  // namespace cortex
