#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "scheduler/scheduler.h"
#include "scheduler/workload.h"

namespace cortex {

/// A request that waits, as a policy sees it.
struct Pending {
  std::uint64_t id = 0;
  Request request;
};

/// How a server decides what runs next, for comparison in a simulation.
class SchedulingPolicy {
 public:
  virtual ~SchedulingPolicy() = default;
  virtual std::string_view name() const = 0;
  /// False: the session is refused.
  virtual bool open_session(int /*session*/, double /*rate_hz*/, TimeNs /*now*/) { return true; }
  /// A window has come, or a session's next step is ready. False: the window is refused at once.
  virtual bool offer(const Pending& pending, TimeNs now) = 0;
  /// The device is free: what runs now. Valid until the next call.
  virtual std::span<const std::uint64_t> next(TimeNs now) = 0;
  /// What was given up in the last next().
  virtual std::span<const std::uint64_t> shed() const { return {}; }
  /// When next() wants to be asked again though nothing comes.
  virtual std::optional<TimeNs> wake() const { return std::nullopt; }
  virtual void finished(TimeNs /*now*/) {}
};

struct PolicyOptions {
  int max_batch = 16;
  int max_queued = 256;  ///< windows; more are refused, by every policy
  double max_utilisation = 0.95;
};

/// The engine's scheduler; `measured` stands for its warm-up.
std::unique_ptr<SchedulingPolicy> make_cortex_policy(const PolicyOptions& options,
                                                     std::span<const BatchCost> measured);
/// In order of arrival, whatever is there as soon as the device is free.
std::unique_ptr<SchedulingPolicy> make_fifo_policy(const PolicyOptions& options);
/// In order of arrival, when a batch is full or its oldest has waited for `window`.
std::unique_ptr<SchedulingPolicy> make_fixed_window_policy(const PolicyOptions& options,
                                                           TimeNs window);
/// In order of deadline, whatever is there as soon as the device is free; nothing is ever refused
/// or given up for its deadline.
std::unique_ptr<SchedulingPolicy> make_plain_edf_policy(const PolicyOptions& options);

}  // namespace cortex
