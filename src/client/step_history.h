#pragma once

#include <cortex/events.h>

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace cortex {

/// The last steps of a stream, as many as its answers depend on. Steps that are not there were
/// silent.
class StepHistory {
 public:
  struct Step {
    std::int64_t sequence = 0;
    std::vector<Event> events = {};
  };

  /// `first_step`: nothing came before it. `context_steps`: how many an answer depends on, its own
  /// step included.
  StepHistory(std::int64_t first_step, int context_steps)
      : first_step_(first_step), context_steps_(context_steps) {}

  /// Steps come in order.
  void add(std::int64_t sequence, std::span<const Event> events);
  /// Where a new session starts that is to answer step `sequence` as the old one would have.
  std::int64_t first_needed(std::int64_t sequence) const;
  /// What to send to it before that step; until the next add().
  std::vector<const Step*> needed_before(std::int64_t sequence) const;

 private:
  std::int64_t first_step_;
  int context_steps_;
  std::deque<Step> steps_;
};

}  // namespace cortex
