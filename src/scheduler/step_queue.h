#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/batch_former.h"
#include "scheduler/ready_queue.h"

namespace cortex {

/// Ready steps, at most one a session. Pure: no clock, no thread, no lock; up to the size that was
/// reserved nothing allocates.
///
/// Steps that can be in time run in the order of their deadlines. A session that lost a deadline
/// has fallen behind until one of its steps is in time again. What the others leave goes to those
/// behind, step after step to the one that fell last, which has least to catch up: were they to
/// take turns none ever would, and a stall under full load would make all of them late for good. A
/// small share, however busy the others are, goes to the one that fell first.
class StepQueue {
 public:
  /// `share` of the device's time goes to those behind, however busy the others keep it.
  explicit StepQueue(double share) : share_(share) {}

  void reserve(std::size_t n) {
    in_time_.reserve(n);
    behind_.reserve(n);
  }
  /// A step that is not promised, of a session that is behind, goes to the others of those.
  void push(const Work& work);
  template <class Gone>
  int erase_if(Gone gone) {
    return in_time_.erase_if(gone) + static_cast<int>(std::erase_if(behind_, gone));
  }
  std::size_t size() const { return in_time_.size() + behind_.size(); }
  bool empty() const { return in_time_.empty() && behind_.empty(); }

  /// Takes the next batch at `now`, as form_batch() does. Overwrites `batch`.
  void form(const CostModel& cost, int max_rows, TimeNs now, FormedBatch& batch);

  /// A session that closes is behind no more.
  void forget(const StepFlow& flow);
  /// Steps a second of the sessions that are behind, of those whose deadlines leave the device
  /// about a period: who asks for less may be late without any overload.
  double behind_hz() const { return behind_hz_; }
  /// Since when there are such.
  TimeNs behind_since() const { return behind_since_; }

 private:
  void fall_behind(const Work& work, TimeNs now);
  void push_behind(Work work);
  void catch_up(StepFlow& flow);

  double share_;
  WorkHeap in_time_;
  std::vector<Work> behind_;  // in the order in which their sessions fell, which is also `due`
  std::int64_t falls_ = 0;
  TimeNs share_at_ = 0;  // from here on one of those behind goes first
  double behind_hz_ = 0;
  int behind_sessions_ = 0;
  TimeNs behind_since_ = kNever;
};

}  // namespace cortex
