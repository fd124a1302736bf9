#include "cache/stream_state.h"

#include <algorithm>
#include <limits>

namespace cortex {

StreamState::StreamState(std::int64_t first_step, int receptive_steps, int window_steps)
    : receptive_steps_(receptive_steps),
      window_steps_(window_steps),
      first_step_(first_step),
      step_(first_step - 1),
      recent_(static_cast<std::size_t>(receptive_steps)) {}

void StreamState::restart(std::int64_t first_step) {
  first_step_ = first_step;
  step_ = first_step - 1;
  recent_steps_ = 0;
}

void StreamState::push(std::span<const Event> events) {
  ++step_;
  if (recent_steps_ == receptive_steps_) {
    // The oldest step goes; the others move up.
    std::shift_left(recent_.begin(), recent_.end(), 1);
    --recent_steps_;
  }
  recent_[static_cast<std::size_t>(recent_steps_++)] = events;
}

int StreamState::live_steps() const {
  return static_cast<int>(std::min<std::int64_t>(window_steps_, step_ - first_step_ + 1));
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
