#include "client/step_history.h"

#include <algorithm>
#include <utility>

namespace cortex {

void StepHistory::add(std::int64_t sequence, std::span<const Event> events) {
  Step step;
  // The next answer is at least one step on.
  const std::int64_t oldest = first_needed(sequence + 1);
  while (!steps_.empty() && steps_.front().sequence < oldest) {
    step.events = std::move(steps_.front().events);  // its memory serves again
    steps_.pop_front();
  }
  step.sequence = sequence;
  step.events.assign(events.begin(), events.end());
  steps_.push_back(std::move(step));
}

std::int64_t StepHistory::first_needed(std::int64_t sequence) const {
  return std::max(first_step_, sequence - context_steps_ + 1);
}

std::vector<const StepHistory::Step*> StepHistory::needed_before(std::int64_t sequence) const {
  const std::int64_t first = first_needed(sequence);
  std::vector<const Step*> needed;
  for (const Step& step : steps_)
    if (step.sequence >= first && step.sequence < sequence) needed.push_back(&step);
  return needed;
}

}  // namespace cortex
