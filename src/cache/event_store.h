#pragma once

#include <cortex/events.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace cortex {

/// Where a session's events lie from when a step brings them until no step sees them any more.
/// Each step's take the lowest place that is free and nothing moves, so that a session touches
/// little more memory than it holds events: with thousands of sessions that is what a step costs.
/// After construction nothing allocates. No clock, no lock.
///
///     EventStore store(most_held, most_events);
///     std::span<Event> room = store.room(events.size());
///     // ... write the step's events, perhaps fewer ...
///     store.hold(step, count);
class EventStore {
 public:
  /// At most `most_held` steps are held while another asks for room, each of at most `most_events`
  /// events. Memory that no step needs stays untouched.
  EventStore(std::size_t most_held, std::size_t most_events);

  /// Room for `count` events, at most most_events: until the next call, unless hold() keeps it.
  std::span<Event> room(std::size_t count);
  /// Keeps the first `count` events of the last room as those of `step`.
  void hold(std::int64_t step, std::size_t count);
  /// Events of the steps before `step` are needed no more.
  void release_before(std::int64_t step);

 private:
  struct Held {
    std::size_t begin;
    std::size_t end;
    std::int64_t step;
  };

  Event* events() { return reinterpret_cast<Event*>(memory_.get()); }

  std::unique_ptr<std::byte[]> memory_;  // not filled
  std::vector<Held> held_;               // in the order of their places
  std::size_t room_begin_ = 0;
  std::size_t room_before_ = 0;  // index in held_ of what lies behind the room
};

}  // namespace cortex
