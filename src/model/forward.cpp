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

std::size_t WindowBatch::bytes(std::int64_t windows, std::int64_t events) {
  return sizeof(double) * static_cast<std::size_t>(windows) +
         sizeof(std::int32_t) * static_cast<std::size_t>(windows + 1 + 3 * events);
}

void WindowBatch::lay_out(std::byte* memory, std::int64_t room_windows, std::int64_t room_events) {
  const auto place = [&memory]<class T>(std::span<T>& room, std::int64_t count) {
    room = {reinterpret_cast<T*>(memory), static_cast<std::size_t>(count)};
    memory += room.size_bytes();
  };
  place(window_bins, room_windows);
  place(indptr, room_windows + 1);
  for (auto* of_events : {&neuron, &bin, &value}) place(*of_events, room_events);
  windows = 0;
  indptr[0] = 0;
}

void WindowBatch::add_window(std::span<const Event> events, double bins) {
  const auto w = static_cast<std::size_t>(windows);
  if (w == window_bins.size())
    throw std::length_error(fmt::format("a batch of more than {} windows", w));
  auto at = static_cast<std::size_t>(indptr[w]);
  if (events.size() > neuron.size() - at)
    throw std::length_error(fmt::format("a batch of more than {} events", neuron.size()));
  for (const Event& e : events) {
    neuron[at] = e.unit;
    bin[at] = static_cast<std::int32_t>(e.bin);
    value[at++] = e.value;
  }
  window_bins[w] = bins;
  indptr[w + 1] = static_cast<std::int32_t>(at);
  ++windows;
}

WindowBatch& WindowForward::begin_batch(int windows, std::int64_t events) {
  if (windows > capacity_ || events > max_events_)
    throw std::length_error(
        fmt::format("a batch of {} windows of together {} events, with room for {} of together {}",
                    windows, events, capacity_, max_events_));
  lay_out_batch(windows, events);
  return batch_;
}

}  // namespace cortex
