#include "telemetry/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <iterator>

namespace cortex {
namespace {

constexpr int kFirstOctave = 6;  // 64 ns

// 10 us to 1 s.
constexpr std::int64_t kLatencyEdgesNs[] = {10'000,      20'000,      50'000,      100'000,
                                            200'000,     500'000,     1'000'000,   2'000'000,
                                            5'000'000,   10'000'000,  20'000'000,  50'000'000,
                                            100'000'000, 200'000'000, 500'000'000, 1'000'000'000};

}  // namespace

int LatencyHistogram::bucket_of(std::int64_t ns) {
  const auto v = static_cast<std::uint64_t>(std::max<std::int64_t>(ns, 1 << kFirstOctave));
  const int octave = std::bit_width(v) - 1;
  const int sub = static_cast<int>((v - (1ULL << octave)) * kSubBuckets >> octave);
  return std::min((octave - kFirstOctave) * kSubBuckets + sub, kOctaves * kSubBuckets - 1);
}

std::int64_t LatencyHistogram::upper_edge(int bucket) {
  const int octave = bucket / kSubBuckets + kFirstOctave;
  const int sub = bucket % kSubBuckets;
  return ((static_cast<std::int64_t>(kSubBuckets) + sub + 1) << octave) / kSubBuckets;
}

void LatencyHistogram::record(std::int64_t ns) {
  buckets_[bucket_of(ns)].fetch_add(1, std::memory_order_relaxed);
  sum_.fetch_add(ns, std::memory_order_relaxed);
  std::int64_t seen = max_.load(std::memory_order_relaxed);
  while (ns > seen && !max_.compare_exchange_weak(seen, ns, std::memory_order_relaxed)) {
  }
}

std::int64_t LatencyHistogram::count() const {
  std::int64_t n = 0;
  for (const auto& b : buckets_) n += b.load(std::memory_order_relaxed);
  return n;
}

std::int64_t LatencyHistogram::quantile_ns(double q) const {
  const std::int64_t total = count();
  if (total == 0) return 0;
  const auto rank = std::max<std::int64_t>(1, static_cast<std::int64_t>(q * total + 0.999999));
  std::int64_t seen = 0;
  for (int i = 0; i < static_cast<int>(buckets_.size()); ++i) {
    seen += buckets_[i].load(std::memory_order_relaxed);
    if (seen >= rank) return std::min(upper_edge(i), max_ns());
  }
  return max_ns();
}

std::int64_t LatencyHistogram::count_at_most(std::int64_t ns) const {
  std::int64_t n = 0;
  for (int i = 0; i < static_cast<int>(buckets_.size()) && upper_edge(i) <= ns; ++i)
    n += buckets_[i].load(std::memory_order_relaxed);
  return n;
}

void LatencyHistogram::reset() {
  for (auto& b : buckets_) b.store(0, std::memory_order_relaxed);
  sum_.store(0, std::memory_order_relaxed);
  max_.store(0, std::memory_order_relaxed);
}

void PrometheusText::header(std::string_view name, std::string_view help, std::string_view type) {
  if (last_ == name) return;
  last_ = name;
  fmt::format_to(std::back_inserter(text_), "# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
}

void PrometheusText::counter(std::string_view name, std::string_view help, double value,
                             std::string_view labels) {
  header(name, help, "counter");
  fmt::format_to(std::back_inserter(text_), "{}{} {}\n", name,
                 labels.empty() ? std::string() : fmt::format("{{{}}}", labels), value);
}

void PrometheusText::gauge(std::string_view name, std::string_view help, double value,
                           std::string_view labels) {
  header(name, help, "gauge");
  fmt::format_to(std::back_inserter(text_), "{}{} {}\n", name,
                 labels.empty() ? std::string() : fmt::format("{{{}}}", labels), value);
}

void PrometheusText::histogram(std::string_view name, std::string_view help,
                               const LatencyHistogram& histogram) {
  header(name, help, "histogram");
  const auto out = std::back_inserter(text_);
  for (const std::int64_t edge : kLatencyEdgesNs)
    fmt::format_to(out, "{}_bucket{{le=\"{}\"}} {}\n", name, static_cast<double>(edge) * 1e-9,
                   histogram.count_at_most(edge));
  const std::int64_t total = histogram.count();
  fmt::format_to(out, "{}_bucket{{le=\"+Inf\"}} {}\n{}_sum {}\n{}_count {}\n", name, total, name,
                 histogram.sum_s(), name, total);
}

void PrometheusText::histogram(std::string_view name, std::string_view help,
                               std::span<const std::int64_t> counts, double sum,
                               std::string_view labels) {
  header(name, help, "histogram");
  const auto out = std::back_inserter(text_);
  std::int64_t total = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    total += counts[i];
    fmt::format_to(out, "{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, std::int64_t{1} << i,
                   total);
  }
  fmt::format_to(out,
                 "{0}_bucket{{{1},le=\"+Inf\"}} {2}\n{0}_sum{{{1}}} {3}\n{0}_count{{{1}}} {2}\n",
                 name, labels, total, sum);
}

}  // namespace cortex
