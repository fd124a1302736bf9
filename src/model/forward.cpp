#include "model/forward.h"

#include <fmt/format.h>

#include <stdexcept>

namespace cortex {

void StreamBatch::reserve(std::size_t most, std::size_t stream_pages) {
  for (auto* v : {&indptr, &page_indptr}) v->reserve(most + 1);
  for (auto* v : {&present, &slot, &live}) v->reserve(most);
  step.reserve(most);
  pages.reserve(most * stream_pages);
  clear();
}

void StreamBatch::clear() {
  steps = 0;
  step.clear();
  for (auto* v : {&present, &pages, &slot, &live}) v->clear();
  indptr.assign(1, 0);
  page_indptr.assign(1, 0);
  begin_ = end_ = 0;
}

void StreamBatch::add_events(std::span<const Event> events, std::int64_t end_bin) {
  if (events.size() > room.size() - end_)
    throw std::length_error(fmt::format("a batch of more than {} recent events", room.size()));
  StreamEvent* to = room.data() + end_;
  for (const Event& e : events)
    *to++ = {e.unit, e.value, static_cast<std::int32_t>(end_bin - 1 - e.bin)};
  begin_ = end_;
  end_ += events.size();
}

void StreamBatch::add_step(std::int64_t number, std::span<const std::int32_t> stream_pages,
                           std::int32_t slot_of_step, std::int32_t live_steps) {
  step.push_back(number);
  present.push_back(static_cast<std::int32_t>(begin_));
  indptr.push_back(static_cast<std::int32_t>(end_));
  pages.insert(pages.end(), stream_pages.begin(), stream_pages.end());
  page_indptr.push_back(static_cast<std::int32_t>(pages.size()));
  slot.push_back(slot_of_step);
  live.push_back(live_steps);
  begin_ = end_;
  ++steps;
}

}  // namespace cortex
