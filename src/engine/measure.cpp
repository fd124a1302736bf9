#include <algorithm>
#include <numeric>
#include <vector>

#include "engine/local_engine.h"

/// What the scheduler starts with: the times of a few batches, on the buffers of the compute thread
/// before it runs.
namespace cortex {
namespace {

// A measurement that would go beyond this is left out: what is missing is learned from requests.
constexpr TimeNs kBudgetNs = 300'000'000;
constexpr int kRepeats = 3;
// Events of a step or window in two measurements, to tell what one costs.
constexpr int kFewKeys = 0;
constexpr int kManyStepKeys = 64;
constexpr int kManyWindowKeys = 1024;

}  // namespace

TimeNs LocalEngine::time_forward(int rows, int keys) {
  std::vector<Event> events;
  if (streams()) {
    StreamBatch& batch = stream_->batch();
    batch.clear();
    const int bins = bins_per_step_, window = config_.window_steps;
    std::vector<std::int32_t> pages(static_cast<std::size_t>(layout_.pages_per_session()));
    std::iota(pages.begin(), pages.end(), 0);
    for (int row = 0; row < rows; ++row) {
      for (int step = 0; step < config_.receptive_steps; ++step) {
        events.clear();
        for (int key = 0; key < keys; ++key)
          events.push_back({key / bins % config_.unit_count(), 1,
                            static_cast<std::int64_t>(step) * bins + key % bins});
        batch.add_events(events, static_cast<std::int64_t>(config_.receptive_steps) * bins);
      }
      batch.add_step(window, pages, 0, window);
      for (std::int32_t& page : pages) page += layout_.pages_per_session();
    }
  } else {
    for (int key = 0; key < keys; ++key)
      events.push_back({key % config_.max_neurons, 1, key % config_.max_bins});
    WindowBatch& batch = window_->begin_batch(rows, std::int64_t{rows} * keys);
    for (int row = 0; row < rows; ++row) batch.add_window(events, config_.max_bins);
  }
  const Clock& clock = RealClock::instance();
  const TimeNs started = clock.now();
  if (streams())
    (void)stream_->forward();
  else
    (void)window_->forward();
  return clock.now() - started;
}

std::vector<BatchCost> LocalEngine::measure_batches() {
  const int many = streams() ? std::min(kManyStepKeys, config_.max_events_per_step)
                             : std::min(kManyWindowKeys, options_.max_window_events);
  const int most =
      streams() ? std::min(options_.max_batch, options_.max_sessions) : options_.max_batch;
  std::vector<BatchCost> measured;
  TimeNs left = kBudgetNs;
  // The first touches memory that was never used.
  left -= time_forward(1, many);
  for (int rows = 1;; rows = std::min(2 * rows, most)) {
    for (const int keys : {kFewKeys, many})
      for (int i = 0; i < kRepeats; ++i) {
        const TimeNs took = time_forward(rows, keys);
        measured.push_back({rows, std::int64_t{rows} * keys, took});
        left -= took;
        // Even the last of a batch of twice the size must fit.
        if (left < 2 * took) return measured;
      }
    if (rows == most) return measured;
  }
}

}  // namespace cortex
