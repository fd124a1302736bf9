#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace cortex {

/// Counts that only rise. Recording is wait-free.
class Counter {
 public:
  void add(std::int64_t n = 1) { value_.fetch_add(n, std::memory_order_relaxed); }
  std::int64_t value() const { return value_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::int64_t> value_{0};
};

/// Durations in log-spaced buckets (16 a factor of two, so a quantile is within 4.5%), 64 ns to
/// 68 s. Recording is wait-free; the maximum is exact.
class LatencyHistogram {
 public:
  void record(std::int64_t ns);
  std::int64_t count() const;
  /// Upper edge of the bucket that holds quantile q in [0, 1]; never above the maximum. 0 if empty.
  std::int64_t quantile_ns(double q) const;
  std::int64_t max_ns() const { return max_.load(std::memory_order_relaxed); }
  double sum_s() const { return static_cast<double>(sum_.load(std::memory_order_relaxed)) * 1e-9; }
  /// How many were at most `ns`; exact where `ns` is a bucket's edge, else rounded down to one.
  std::int64_t count_at_most(std::int64_t ns) const;
  void reset();

 private:
  static constexpr int kSubBuckets = 16;
  static constexpr int kOctaves = 30;
  static int bucket_of(std::int64_t ns);
  static std::int64_t upper_edge(int bucket);
  std::array<std::atomic<std::uint32_t>, kOctaves * kSubBuckets> buckets_{};
  std::atomic<std::int64_t> sum_{0};
  std::atomic<std::int64_t> max_{0};
};

/// Prometheus text exposition, format 0.0.4.
class PrometheusText {
 public:
  void counter(std::string_view name, std::string_view help, double value,
               std::string_view labels = {});
  void gauge(std::string_view name, std::string_view help, double value,
             std::string_view labels = {});
  /// Durations in seconds, buckets from 10 us to 1 s.
  void histogram(std::string_view name, std::string_view help, const LatencyHistogram& histogram);
  /// Counts of sizes: counts[i] lie above 2^(i-1) and at most at 2^i.
  void histogram(std::string_view name, std::string_view help, std::span<const std::int64_t> counts,
                 double sum, std::string_view labels);
  const std::string& text() const { return text_; }

 private:
  void header(std::string_view name, std::string_view help, std::string_view type);
  std::string text_;
  std::string last_;  // family whose header was written last
};

}  // namespace cortex
