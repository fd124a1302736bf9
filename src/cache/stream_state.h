#pragma once

#include <cortex/events.h>

#include <cstdint>
#include <span>
#include <vector>

#include "core/memory.h"

namespace cortex {

/// What a session knows beside its pages: its clock, and where the events of its last C steps lie.
///
///     StreamState s(first_step, receptive_steps, window_steps);
///     s.push(events_of_next_step);   // sorted by (bin, unit), duplicates merged
///     // ... run the step s.step() with s.recent(i) ...
class StreamState {
 public:
  StreamState(std::int64_t first_step, int receptive_steps, int window_steps);

  /// Fetches where recent events lie.
  void prefetch() const { prefetch_lines(recent_.data(), recent_.data() + recent_.size()); }
  /// Forgets everything and makes `first_step` the next step; what was cached no longer counts.
  void restart(std::int64_t first_step);
  /// Makes the next step the present one. Its events stay where they are until C more were pushed.
  void push(std::span<const Event> events);

  std::int64_t next_step() const { return step_ + 1; }
  std::int64_t step() const { return step_; }  ///< the present step; first_step - 1 before any
  /// Steps whose K and V the present one sees, itself included: at most the window.
  int live_steps() const;
  /// Slot of the present step: step mod window.
  int slot() const { return static_cast<int>(step_ % window_steps_); }

  int recent_steps() const { return recent_steps_; }  ///< steps of events held, at most C
  /// Events of a recent step, 0 the oldest.
  std::span<const Event> recent(int i) const { return recent_[static_cast<std::size_t>(i)]; }

 private:
  int receptive_steps_;
  int window_steps_;
  std::int64_t first_step_;
  std::int64_t step_;
  int recent_steps_ = 0;
  std::vector<std::span<const Event>> recent_;  // [C], oldest first
};

/// Sorts by (bin, unit) and adds up duplicates in place; the new length. Sums saturate.
std::size_t canonicalize(std::span<Event> events);

}  // namespace cortex
