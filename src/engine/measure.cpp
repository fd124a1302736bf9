#include <algorithm>

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
  if (streams()) {
    stream_batch_.clear();
    const std::int32_t pages = layout_.pages_per_session();
    const int bins = bins_per_step_, window = config_.window_steps,
              recent = config_.receptive_steps;
    StreamBatch& b = stream_batch_;
    for (int row = 0; row < rows; ++row) {
      for (int step = 0; step < recent; ++step) {
        if (step == recent - 1) b.present.push_back(static_cast<std::int32_t>(b.unit.size()));
        for (int key = 0; key < keys; ++key) {
          b.unit.push_back(key / bins % config_.unit_count());
          b.value.push_back(1);
          b.offset.push_back((recent - step) * bins - 1 - key % bins);
        }
      }
      b.indptr.push_back(static_cast<std::int32_t>(b.unit.size()));
      b.step.push_back(window);
      for (std::int32_t p = 0; p < pages; ++p) b.pages.push_back(row * pages + p);
      b.page_indptr.push_back(static_cast<std::int32_t>(b.pages.size()));
      b.slot.push_back(0);
      b.live.push_back(window);
      ++b.steps;
    }
  } else {
    window_batch_.clear();
    for (int row = 0; row < rows; ++row) {
      for (int key = 0; key < keys; ++key) {
        window_batch_.neuron.push_back(key % config_.max_neurons);
        window_batch_.bin.push_back(key % config_.max_bins);
        window_batch_.value.push_back(1);
      }
      window_batch_.indptr.push_back(static_cast<std::int32_t>(window_batch_.neuron.size()));
      window_batch_.window_bins.push_back(config_.max_bins);
    }
  }
  const Clock& clock = RealClock::instance();
  const TimeNs started = clock.now();
  if (streams())
    (void)stream_->forward(stream_batch_);
  else
    (void)window_->forward(window_batch_);
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
