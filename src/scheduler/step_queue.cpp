#include "scheduler/step_queue.h"

#include <algorithm>

namespace cortex {
namespace {

TimeNs predict_rows(const CostModel& cost, std::size_t rows) {
  return cost.predict(static_cast<int>(rows),
                      static_cast<std::int64_t>(static_cast<double>(rows) * cost.keys_per_row()));
}

}  // namespace

void StepQueue::push(const Work& work) {
  if (work.flow != nullptr && work.flow->fell > 0 && !work.promised)
    push_behind(work);
  else
    in_time_.push(work);
}

void StepQueue::push_behind(Work work) {
  work.promised = false;
  work.due = work.flow->fell;
  behind_.insert(std::upper_bound(behind_.begin(), behind_.end(), work,
                                  [](const Work& a, const Work& b) { return a.due < b.due; }),
                 work);
}

void StepQueue::fall_behind(const Work& work, TimeNs now) {
  StepFlow& flow = *work.flow;
  if (flow.fell == 0) {
    flow.fell = ++falls_;
    flow.tells_overload = work.fair_notice;
    if (flow.tells_overload) {
      if (behind_sessions_++ == 0) behind_since_ = now;
      behind_hz_ += flow.rate_hz;
    }
  }
  push_behind(work);
}

void StepQueue::catch_up(StepFlow& flow) {
  forget(flow);
  flow.fell = 0;
}

void StepQueue::forget(const StepFlow& flow) {
  if (flow.fell == 0 || !flow.tells_overload) return;
  behind_hz_ -= flow.rate_hz;
  if (--behind_sessions_ > 0) return;
  // Sums of what came and went leave a rounding error behind.
  behind_hz_ = 0;
  behind_since_ = kNever;
}

void StepQueue::form(const CostModel& cost, int max_rows, TimeNs now, FormedBatch& batch) {
  batch.taken.clear();
  batch.shed.clear();
  GrowingBatch growing(cost, max_rows, now);
  const auto take = [&](const Work& work) {
    growing.add(work);
    batch.taken.push_back(work);
  };
  if (!behind_.empty() && now >= share_at_) {
    const auto alone = static_cast<double>(cost.predict(1, behind_.front().keys));
    share_at_ = now + static_cast<TimeNs>(alone / share_);
    take(behind_.front());
    behind_.erase(behind_.begin());
  }
  // While some are behind, a step that leaves no time for a batch of all that wait joins them:
  // small batches are what an overloaded device can afford least.
  const std::size_t crowd =
      std::clamp<std::size_t>(in_time_.size(), 1, static_cast<std::size_t>(max_rows));
  const TimeNs least = behind_sessions_ > 0 ? now + predict_rows(cost, crowd) : now;
  while (!in_time_.empty()) {
    const Work work = in_time_.front();
    const bool is_session = work.flow != nullptr && work.promised;
    if (growing.in_time(work) && (!is_session || least <= work.deadline)) {
      if (!growing.admits(work)) break;
      if (is_session) catch_up(*work.flow);
      take(work);
      in_time_.pop();
      continue;
    }
    in_time_.pop();
    if (work.sheddable)
      batch.shed.push_back(work);
    else if (is_session)
      fall_behind(work, now);
    else
      in_time_.push(without_promise(work, now));
  }
  while (!behind_.empty() && growing.admits(behind_.back())) {
    take(behind_.back());
    behind_.pop_back();
  }
  batch.keys = growing.keys();
  batch.predicted = growing.finish() - now;
}

}  // namespace cortex
