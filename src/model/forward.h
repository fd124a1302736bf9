#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cortex {

/// One step each of up to `capacity` streams, as the engine packs it in host memory.
struct StreamBatch {
  int steps = 0;
  std::vector<std::int64_t> step;    ///< [steps] number of the step
  std::vector<std::int32_t> indptr;  ///< as in StreamEvents and PagedKv
  std::vector<std::int32_t> present;
  std::vector<std::int32_t> unit;
  std::vector<std::int32_t> value;
  std::vector<std::int32_t> offset;
  std::vector<std::int32_t> page_indptr;
  std::vector<std::int32_t> pages;
  std::vector<std::int32_t> slot;
  std::vector<std::int32_t> live;

  /// Empty, with room for `steps` steps of `events` recent events and `pages` pages each.
  void reserve(int steps, std::int64_t events, int pages);
  void clear();
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

/// What the engine asks of a stream decoder.
class StreamForward {
 public:
  virtual ~StreamForward() = default;
  /// Behaviour in physical units, [steps, outputs], valid until the next call.
  virtual std::span<const float> forward(const StreamBatch& batch) = 0;
  /// Leaves no forward to be a first one.
  virtual void warm_up() = 0;
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
