#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "scheduler/cost_model.h"
#include "scheduler/ready_queue.h"

namespace cortex {

/// A batch as it grows, starting at a given time.
class GrowingBatch {
 public:
  GrowingBatch(const CostModel& cost, int max_rows, TimeNs start)
      : cost_(&cost), max_rows_(max_rows), start_(start) {}

  /// Alone, and started with this batch, `work` would be in time.
  bool in_time(const Work& work) const;
  /// `work` may join: there is room, nothing promised becomes late by it, and together they take
  /// less than one after the other. An empty batch takes anything.
  bool admits(const Work& work) const;
  void add(const Work& work);

  int rows() const { return rows_; }
  std::int64_t keys() const { return keys_; }
  TimeNs start() const { return start_; }
  /// Predicted.
  TimeNs finish() const { return start_ + took_; }
  /// Of this batch and of the further forwards of what is in it.
  TimeNs all_finished() const { return start_ + took_ + further_; }

 private:
  TimeNs alone(const Work& work) const { return cost_->predict(1, work.keys); }
  /// Of the forwards that `work` needs after this batch.
  TimeNs further(const Work& work) const {
    return work.forwards > 1 ? (work.forwards - 1) * alone(work) : 0;
  }
  /// When a batch with `work` in it must have finished.
  TimeNs latest(const Work& work) const;

  const CostModel* cost_;
  int max_rows_;
  TimeNs start_;
  int rows_ = 0;
  std::int64_t keys_ = 0;
  TimeNs took_ = 0;
  TimeNs further_ = 0;
  TimeNs latest_ = kNever;
};

/// A batch that was formed, and what was given up on the way.
struct FormedBatch {
  std::vector<Work> taken;
  std::vector<Work> shed;  ///< sheddable, predicted to miss even if they started now
  std::int64_t keys = 0;   ///< of what was taken
  TimeNs predicted = 0;    ///< how long it will take

  void reserve(std::size_t batch, std::size_t queue);
};

/// What can no longer be in time, to be done later: what is late already makes nothing else late.
inline Work without_promise(Work work, TimeNs now) {
  work.promised = false;
  work.due = std::max(work.due, now) + work.interval;
  return work;
}

/// Takes the next batch at `now` from a WorkHeap or WorkList: what is due first, in that order, for
/// as long as GrowingBatch admits the next; there is no wait for more. Promised work that can no
/// longer be in time is not dispatched as if it could: it is shed, or loses its promise.
/// Overwrites `batch`.
template <class Queue>
void form_batch(Queue& queue, const CostModel& cost, int max_rows, TimeNs now, FormedBatch& batch) {
  batch.taken.clear();
  batch.shed.clear();
  GrowingBatch growing(cost, max_rows, now);
  while (!queue.empty()) {
    const Work work = queue.front();
    if (growing.in_time(work)) {
      if (!growing.admits(work)) break;
      growing.add(work);
      batch.taken.push_back(work);
      queue.pop();
      continue;
    }
    queue.pop();
    if (work.sheddable) {
      batch.shed.push_back(work);
      continue;
    }
    queue.push(without_promise(work, now));
  }
  batch.keys = growing.keys();
  batch.predicted = growing.finish() - now;
}

/// Runs a queue forward, as form_batch() will if nothing else comes and costs are as predicted.
/// Add work in the order in which it is due.
class Forecast {
 public:
  /// `stretch`: how much longer than alone work takes, because other work has its own share.
  Forecast(const CostModel& cost, int max_rows, TimeNs start, double stretch = 1)
      : cost_(&cost),
        max_rows_(max_rows),
        first_start_(start),
        stretch_(stretch),
        batch_(cost, max_rows, start) {}

  /// False: `work` is promised and would be late; it is left out.
  bool add(const Work& work);
  std::int64_t misses() const { return misses_; }
  /// How much device time all that was added takes.
  TimeNs work() const { return batch_.all_finished() - first_start_; }

 private:
  const CostModel* cost_;
  int max_rows_;
  TimeNs first_start_;
  double stretch_;
  GrowingBatch batch_;
  std::int64_t misses_ = 0;
};

}  // namespace cortex
