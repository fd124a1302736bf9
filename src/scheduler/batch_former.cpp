#include "scheduler/batch_former.h"

namespace cortex {

bool GrowingBatch::in_time(const Work& work) const {
  return !work.promised || start_ + work.forwards * alone(work) <= work.deadline;
}

TimeNs GrowingBatch::latest(const Work& work) const {
  return work.promised ? work.deadline - further(work) : kNever;
}

bool GrowingBatch::admits(const Work& work) const {
  if (rows_ == 0) return true;
  if (rows_ == max_rows_) return false;
  const TimeNs took = cost_->predict(rows_ + 1, keys_ + work.keys);
  if (start_ + took > std::min(latest_, latest(work))) return false;
  return CostModel::joins(static_cast<double>(took - took_), static_cast<double>(alone(work)));
}

void GrowingBatch::add(const Work& work) {
  ++rows_;
  keys_ += work.keys;
  took_ = cost_->predict(rows_, keys_);
  further_ += further(work);
  latest_ = std::min(latest_, latest(work));
}

void FormedBatch::reserve(std::size_t batch, std::size_t queue) {
  taken.reserve(batch);
  shed.reserve(queue);
}

bool Forecast::add(const Work& work) {
  Work w = work;
  if (w.promised)
    w.deadline = first_start_ +
                 static_cast<TimeNs>(static_cast<double>(w.deadline - first_start_) / stretch_);
  if (batch_.in_time(w) && !batch_.admits(w))
    batch_ = GrowingBatch(*cost_, max_rows_, batch_.all_finished());
  if (!batch_.in_time(w)) {
    ++misses_;
    return false;
  }
  batch_.add(w);
  return true;
}

}  // namespace cortex
