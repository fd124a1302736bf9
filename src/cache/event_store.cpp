#include "cache/event_store.h"

namespace cortex {

EventStore::EventStore(std::size_t most_held, std::size_t most_events)
    // In the worst case every one of them is of most_events, and the gaps are one event short.
    : memory_(std::make_unique_for_overwrite<std::byte[]>((2 * most_held + 1) * most_events *
                                                          sizeof(Event))) {
  held_.reserve(most_held + 1);
}

std::span<Event> EventStore::room(std::size_t count) {
  room_begin_ = room_before_ = 0;
  for (; room_before_ < held_.size(); ++room_before_) {
    const Held& next = held_[room_before_];
    if (room_begin_ + count <= next.begin) break;
    room_begin_ = next.end;
  }
  return {events() + room_begin_, count};
}

void EventStore::hold(std::int64_t step, std::size_t count) {
  if (count == 0) return;
  held_.insert(held_.begin() + static_cast<std::ptrdiff_t>(room_before_),
               {room_begin_, room_begin_ + count, step});
}

void EventStore::release_before(std::int64_t step) {
  std::erase_if(held_, [step](const Held& held) { return held.step < step; });
}

}  // namespace cortex
