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
      events_(static_cast<std::size_t>(receptive_steps) * max_events_),
      counts_(static_cast<std::size_t>(receptive_steps), 0) {}

void StreamState::restart(std::int64_t first_step) {
  first_step_ = first_step;
  step_ = first_step - 1;
}

void StreamState::push(std::span<const Event> events) {
  ++step_;
  const auto row = static_cast<std::size_t>(step_ % receptive_steps_);
  counts_[row] = std::min(events.size(), max_events_);
  std::copy_n(events.begin(), counts_[row],
              events_.begin() + static_cast<std::ptrdiff_t>(row * max_events_));
}

int StreamState::live_steps() const {
  return static_cast<int>(std::min<std::int64_t>(window_steps_, step_ - first_step_ + 1));
}

int StreamState::recent_steps() const {
  return static_cast<int>(std::min<std::int64_t>(receptive_steps_, step_ - first_step_ + 1));
}

std::span<const Event> StreamState::recent(int i) const {
  const auto row = static_cast<std::size_t>((step_ - recent_steps() + 1 + i) % receptive_steps_);
  return {events_.data() + row * max_events_, counts_[row]};
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
