#pragma once

#include <atomic>
#include <cstdint>

namespace cortex {

/// Nanoseconds on a monotonic clock; deadlines are absolute points on it.
using TimeNs = std::int64_t;

inline constexpr TimeNs kNever = INT64_MAX;

/// Where time comes from. The scheduler takes one, so the same code runs in simulation.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimeNs now() const = 0;
};

/// CLOCK_MONOTONIC.
class RealClock final : public Clock {
 public:
  TimeNs now() const override;
  static const RealClock& instance();
};

/// Time that moves only when told to; for simulation and tests.
class VirtualClock final : public Clock {
 public:
  TimeNs now() const override { return now_.load(std::memory_order_relaxed); }
  void advance(TimeNs by) { now_.fetch_add(by, std::memory_order_relaxed); }

 private:
  std::atomic<TimeNs> now_{0};
};

}  // namespace cortex
