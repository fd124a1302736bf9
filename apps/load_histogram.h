#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

namespace cortex {

/// Durations in log-spaced buckets, 256 a factor of two: a quantile is within 0.4%, an hour of
/// answers takes no more memory than a second of them. One thread.
class LoadHistogram {
 public:
  void record(std::int64_t ns) {
    ns = std::max<std::int64_t>(ns, 0);
    ++buckets_[bucket_of(ns)];
    ++count_;
    max_ = std::max(max_, ns);
  }
  void add(const LoadHistogram& other) {
    for (std::size_t b = 0; b < buckets_.size(); ++b) buckets_[b] += other.buckets_[b];
    count_ += other.count_;
    max_ = std::max(max_, other.max_);
  }
  std::int64_t count() const { return count_; }
  std::int64_t max_ns() const { return max_; }

  /// Upper edge of the bucket that holds quantile q in [0, 1], never above the maximum; 0 if empty.
  std::int64_t quantile_ns(double q) const {
    const auto wanted = static_cast<std::int64_t>(q * static_cast<double>(count_));
    std::int64_t seen = 0;
    for (std::size_t b = 0; b < buckets_.size(); ++b) {
      seen += buckets_[b];
      if (seen > wanted) return std::min(upper_edge(b), max_);
    }
    return max_;
  }

 private:
  static constexpr int kBits = 8;
  static constexpr std::int64_t kSub = 1 << kBits;

  // Below 256 ns a bucket a nanosecond; above, the top 9 bits choose.
  static std::size_t bucket_of(std::int64_t ns) {
    if (ns < kSub) return static_cast<std::size_t>(ns);
    const int octave = std::bit_width(static_cast<std::uint64_t>(ns)) - 1 - kBits;
    return static_cast<std::size_t>(octave * kSub + (ns >> octave));
  }
  static std::int64_t upper_edge(std::size_t bucket) {
    const auto b = static_cast<std::int64_t>(bucket);
    if (b < kSub) return b;
    const std::int64_t octave = b / kSub - 1;
    return ((b - octave * kSub + 1) << octave) - 1;
  }

  std::vector<std::int64_t> buckets_ = std::vector<std::int64_t>((64 - kBits) * kSub);
  std::int64_t count_ = 0;
  std::int64_t max_ = 0;
};

}  // namespace cortex
