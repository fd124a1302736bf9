#pragma once

#include <cstddef>
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

/// Windows of events in a model's memory, packed: WindowForward::begin_batch(), then add_window()
/// of each. The spans are the room for them.
struct WindowBatch {
  int windows = 0;
  std::span<double> window_bins;   ///< nominal length, for the receptive field
  std::span<std::int32_t> indptr;  ///< events of window w: indptr[w] to indptr[w + 1]
  std::span<std::int32_t> neuron;  ///< of each event, as the two that follow
  std::span<std::int32_t> bin;
  std::span<std::int32_t> value;

  /// What room for so many windows and events takes.
  static std::size_t bytes(std::int64_t windows, std::int64_t events);
  /// An empty batch with its room in `memory`, in one run from its start. `memory`: aligned as a
  /// double, of bytes(room_windows, room_events).
  void lay_out(std::byte* memory, std::int64_t room_windows, std::int64_t room_events);
  /// std::length_error beyond the room.
  void add_window(std::span<const Event> events, double bins);
  std::int32_t events() const { return indptr[static_cast<std::size_t>(windows)]; }
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
  /// Room for `capacity` windows of together `max_events` events.
  WindowForward(int capacity, std::int64_t max_events)
      : capacity_(capacity), max_events_(max_events) {}
  virtual ~WindowForward() = default;
  /// An empty batch for `windows` windows of together `events` events, to be filled before
  /// forward(), which leaves it as it is. std::length_error where the model has no room for them.
  WindowBatch& begin_batch(int windows, std::int64_t events);
  /// Behaviour of the batch in physical units, [windows, outputs], valid until the next call.
  virtual std::span<const float> forward() = 0;
  virtual void warm_up() = 0;

 protected:
  virtual void lay_out_batch(std::int64_t windows, std::int64_t events) = 0;

  const int capacity_;
  const std::int64_t max_events_;
  WindowBatch batch_;
};

}  // namespace cortex
