#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "telemetry/trace_context.h"

/// What is known of a sampled request, kept whole: its spans (ingress, queue, batch, compute,
/// egress) are cut from it where it is exported. Times are nanoseconds of CLOCK_MONOTONIC, 0 where
/// the request did not get there.
namespace cortex {

struct RequestRecord {
  TraceContext context = {};  ///< `span` is the request's own
  SpanId parent{};            ///< zeros: none
  std::string_view route;     ///< of static storage
  std::string model = {};
  std::string request_id = {};
  std::string tenant = {};
  std::int64_t sequence = -1;
  int status = 0;
  std::int64_t arrived_ns = 0;
  std::int64_t submitted_ns = 0;
  std::int64_t started_ns = 0;   ///< a batch took it
  std::int64_t forward_ns = 0;   ///< the batch began to compute
  std::int64_t computed_ns = 0;  ///< and ended
  std::int64_t finished_ns = 0;
  std::int64_t sent_ns = 0;
  std::uint64_t batch = 0;       ///< 0: never computed
  TraceContext batch_span = {};  ///< of the span that stands for the batch
};

/// A batch in which at least one request was sampled.
struct BatchRecord {
  TraceContext context;
  std::string model = {};
  std::uint64_t batch = 0;
  int size = 0;  ///< requests in it, sampled or not
  std::int64_t started_ns = 0;
  std::int64_t computed_ns = 0;
  std::vector<TraceContext> links = {};  ///< the sampled ones
};

using TraceRecord = std::variant<RequestRecord, BatchRecord>;

/// A bounded queue between one writer and one reader. Writing is wait-free; what does not fit is
/// dropped and counted.
class TraceQueue {
 public:
  explicit TraceQueue(std::size_t capacity) : slots_(capacity + 1) {}

  bool push(TraceRecord record) {
    const std::size_t tail = tail_.load(std::memory_order_relaxed);
    const std::size_t next = (tail + 1) % slots_.size();
    if (next == head_.load(std::memory_order_acquire)) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return false;
    }
    slots_[tail] = std::move(record);
    tail_.store(next, std::memory_order_release);
    return true;
  }
  bool pop(TraceRecord& record) {
    const std::size_t head = head_.load(std::memory_order_relaxed);
    if (head == tail_.load(std::memory_order_acquire)) return false;
    record = std::move(slots_[head]);
    head_.store((head + 1) % slots_.size(), std::memory_order_release);
    return true;
  }
  std::int64_t dropped() const { return dropped_.load(std::memory_order_relaxed); }

 private:
  std::vector<TraceRecord> slots_;
  std::atomic<std::size_t> head_{0};
  std::atomic<std::size_t> tail_{0};
  std::atomic<std::int64_t> dropped_{0};
};

}  // namespace cortex
