#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cortex/events.h"
#include "kernels/ops.h"

namespace cortex {

/// One step each of some streams, in a model's memory: of every stream the events of each recent
/// step, oldest first and its own last, then add_step().
struct StreamBatch {
  int steps = 0;
  std::vector<std::int64_t> step;    ///< [steps] number of the step
  std::vector<std::int32_t> indptr;  ///< as in StreamEvents and PagedKv
  std::vector<std::int32_t> present;
  std::vector<std::int32_t> page_indptr;
  std::vector<std::int32_t> pages;
  std::vector<std::int32_t> slot;
  std::vector<std::int32_t> live;
  std::span<StreamEvent> room;  ///< for the events, of which there are indptr.back()

  /// Room for `most` steps of `stream_pages` pages each, and an empty batch.
  void reserve(std::size_t most, std::size_t stream_pages);
  void clear();
  /// Events of one recent step of the stream whose present step ends before bin `end_bin`.
  /// std::length_error where the model has no room for them.
  void add_events(std::span<const Event> events, std::int64_t end_bin);
  void add_step(std::int64_t number, std::span<const std::int32_t> stream_pages,
                std::int32_t slot_of_step, std::int32_t live_steps);

 private:
  std::size_t begin_ = 0;  // of the latest events
  std::size_t end_ = 0;
};

/// Windows of events, packed: no padding.
struct WindowBatch {
  std::vector<std::int32_t> indptr = {0};  ///< [windows + 1]
  std::vector<std::int32_t> neuron;
  std::vector<std::int32_t> bin;
  std::vector<std::int32_t> value;
  std::vector<double> window_bins;  ///< [windows] nominal length, for the receptive field

  int windows() const { return static_cast<int>(window_bins.size()); }
  /// Room for `count` windows of together `events` events.
  void reserve(int count, std::int64_t events);
  void clear();
};

/// What the engine asks of a stream decoder. A batch lies in a lane from when it is filled until
/// its answer was read; batches that were launched run one after the other.
class StreamForward {
 public:
  explicit StreamForward(int lanes = 1) : batches_(static_cast<std::size_t>(lanes)) {}
  virtual ~StreamForward() = default;
  int lanes() const { return static_cast<int>(batches_.size()); }
  /// What the next launch of a lane runs: cleared and filled before each.
  StreamBatch& batch(int lane = 0) { return batches_[static_cast<std::size_t>(lane)]; }
  /// Begins to run the lane's batch. It may run there and then, or behind others while the caller
  /// does something else.
  virtual void launch(int lane) = 0;
  /// Waits for the batch that was launched. Its behaviour in physical units, [steps, outputs],
  /// valid until the lane's next launch.
  virtual std::span<const float> finish(int lane) = 0;
  std::span<const float> forward() {
    launch(0);
    return finish(0);
  }
  /// Leaves no forward to be a first one.
  virtual void warm_up() = 0;

 private:
  std::vector<StreamBatch> batches_;
};

/// What the engine asks of a window decoder.
class WindowForward {
 public:
  virtual ~WindowForward() = default;
  /// Behaviour in physical units, [windows, outputs], valid until the next call.
  virtual std::span<const float> forward(const WindowBatch& batch) = 0;
  virtual void warm_up() = 0;
};

}  // namespace cortex
