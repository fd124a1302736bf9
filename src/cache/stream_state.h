#pragma once

#include <cortex/events.h>

#include <cstdint>
#include <span>
#include <vector>

namespace cortex {

/// What a session caches beside its pages: its clock and the events of its last C steps.
///
///     StreamState s(first_step, receptive_steps, window_steps);
///     s.push(events_of_next_step);   // sorted by (bin, unit), duplicates merged
///     // ... run the step s.step() with s.recent(i) ...
class StreamState {
 public:
  StreamState(std::int64_t first_step, int receptive_steps, int window_steps, int max_events);

  /// Forgets everything and makes `first_step` the next step; what was cached no longer counts.
  void restart(std::int64_t first_step);
  /// Makes the next step the present one. At most max_events events.
  void push(std::span<const Event> events);

  std::int64_t next_step() const { return step_ + 1; }
  std::int64_t step() const { return step_; }  ///< the present step; first_step - 1 before any
  /// Steps whose K and V the present one sees, itself included: at most the window.
  int live_steps() const;
  /// Slot of the present step: step mod window.
  int slot() const { return static_cast<int>(step_ % window_steps_); }

  int recent_steps() const { return recent_steps_; }  ///< steps of events held, at most C
  /// Events of a recent step, 0 the oldest.
  std::span<const Event> recent(int i) const;

 private:
  int receptive_steps_;
  int window_steps_;
  std::int64_t first_step_;
  std::int64_t step_;
  std::size_t max_events_;
  int recent_steps_ = 0;
  // Oldest first and without gaps: a batch of many sessions reads few cache lines of each. Step i
  // has events [starts_[i], starts_[i + 1]). Reserved once, so that no step allocates.
  std::vector<Event> events_;
  std::vector<std::size_t> starts_;
};

/// Sorts by (bin, unit) and adds up duplicates in place; the new length. Sums saturate.
std::size_t canonicalize(std::span<Event> events);

}  // namespace cortex
