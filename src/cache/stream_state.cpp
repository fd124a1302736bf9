#include "cache/stream_state.h"

#include <algorithm>
#include <limits>

namespace cortex {

StreamState::StreamState(std::int64_t first_step, int receptive_steps, int window_steps,
                         int max_events)
    : receptive_steps_(receptive_steps),
      window_steps_(window_steps),
      first_step_(first_step),
      step_(first_step - 1),
      max_events_(static_cast<std::size_t>(max_events)),
      starts_(static_cast<std::size_t>(receptive_steps) + 1, 0) {
  // Not filled: memory that no step ever needs stays untouched.
  events_.reserve(static_cast<std::size_t>(receptive_steps) * max_events_);
}

void StreamState::restart(std::int64_t first_step) {
  first_step_ = first_step;
  step_ = first_step - 1;
  recent_steps_ = 0;
  events_.clear();
}

void StreamState::push(std::span<const Event> events) {
  ++step_;
  if (recent_steps_ == receptive_steps_) {
    // The oldest step goes; the others move up.
    const std::size_t gone = starts_[1];
    events_.erase(events_.begin(), events_.begin() + static_cast<std::ptrdiff_t>(gone));
    for (std::size_t i = 1; i < starts_.size(); ++i) starts_[i - 1] = starts_[i] - gone;
    --recent_steps_;
  }
  const auto row = static_cast<std::size_t>(recent_steps_++);
  const auto taken = events.first(std::min(events.size(), max_events_));
  events_.insert(events_.end(), taken.begin(), taken.end());
  starts_[row + 1] = events_.size();
}

int StreamState::live_steps() const {
  return static_cast<int>(std::min<std::int64_t>(window_steps_, step_ - first_step_ + 1));
}

std::span<const Event> StreamState::recent(int i) const {
  const auto row = static_cast<std::size_t>(i);
  return {events_.data() + starts_[row], starts_[row + 1] - starts_[row]};
}

std::size_t canonicalize(std::span<Event> events) {
  std::sort(events.begin(), events.end(), [](const Event& a, const Event& b) {
    return a.bin != b.bin ? a.bin < b.bin : a.unit < b.unit;
  });
  std::size_t n = 0;
  for (const Event& e : events) {
    if (n > 0 && events[n - 1].bin == e.bin && events[n - 1].unit == e.unit) {
      const std::int64_t sum = std::int64_t{events[n - 1].value} + e.value;
      events[n - 1].value = static_cast<std::int32_t>(
          std::min<std::int64_t>(sum, std::numeric_limits<std::int32_t>::max()));
    } else {
      events[n++] = e;
    }
  }
  return n;
}

}  // namespace cortex
