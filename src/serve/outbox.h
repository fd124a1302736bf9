#pragma once

#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include "serve/request_trace.h"

namespace cortex {

/// Messages on their way out, in a ring that keeps their buffers for the next ones.
class Outbox {
 public:
  struct Message {
    std::string payload;
    bool is_text = true;
    TracePtr trace;
  };

  /// Takes what `payload` holds and leaves a spent buffer in it.
  void push(std::string& payload, bool is_text, TracePtr trace) {
    if (count_ == ring_.size()) grow();
    Message& slot = ring_[(head_ + count_++) % ring_.size()];
    slot.payload.swap(payload);
    slot.is_text = is_text;
    slot.trace = std::move(trace);
    payload.clear();
  }
  /// Moves the oldest message to `message`, whose buffer stays here to be used again.
  void take(Message& message) {
    Message& slot = ring_[head_];
    message.payload.swap(slot.payload);
    message.is_text = slot.is_text;
    message.trace = std::move(slot.trace);
    head_ = (head_ + 1) % ring_.size();
    --count_;
  }
  bool empty() const { return count_ == 0; }
  std::size_t size() const { return count_; }

 private:
  void grow() {
    std::vector<Message> wider(ring_.empty() ? 4 : 2 * ring_.size());
    for (std::size_t i = 0; i < count_; ++i)
      wider[i] = std::move(ring_[(head_ + i) % ring_.size()]);
    ring_ = std::move(wider);
    head_ = 0;
  }

  std::vector<Message> ring_;
  std::size_t head_ = 0;
  std::size_t count_ = 0;
};

}  // namespace cortex
