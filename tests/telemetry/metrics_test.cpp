#include "telemetry/metrics.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace cortex::testing {
namespace {

TEST(LatencyHistogram, QuantilesLieWithinABucketOfTheTruthAndTheMaximumIsExact) {
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> draw(13.0, 1.5);
  LatencyHistogram h;
  std::vector<std::int64_t> all;
  for (int i = 0; i < 20'000; ++i) {
    const auto ns = static_cast<std::int64_t>(draw(random)) + 64;
    h.record(ns);
    all.push_back(ns);
  }
  std::sort(all.begin(), all.end());
  for (const double q : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const auto truth = static_cast<double>(all[static_cast<std::size_t>(q * 20'000) - 1]);
    EXPECT_GE(static_cast<double>(h.quantile_ns(q)), truth * 0.999) << q;
    EXPECT_LE(static_cast<double>(h.quantile_ns(q)), truth * 1.07) << q;
  }
  EXPECT_EQ(h.max_ns(), all.back());
  EXPECT_EQ(h.quantile_ns(1.0), all.back());
  EXPECT_EQ(h.count(), 20'000);
}

TEST(LatencyHistogram, EmptyAndExtremeValuesAreSafe) {
  LatencyHistogram h;
  EXPECT_EQ(h.quantile_ns(0.5), 0);
  h.record(0);
  h.record(-5);
  h.record(INT64_MAX / 2);
  EXPECT_EQ(h.count(), 3);
  EXPECT_EQ(h.count_at_most(1'000), 2);
}

TEST(PrometheusText, AFamilyHasOneHeaderAndAHistogramCumulativeBuckets) {
  LatencyHistogram h;
  h.record(15'000);
  h.record(1'500'000);
  PrometheusText text;
  text.counter("cortex_requests_total", "Requests.", 3, "route=\"/decode\"");
  text.counter("cortex_requests_total", "Requests.", 4, "route=\"/stream\"");
  text.histogram("cortex_latency_seconds", "Latency.", h);
  const std::string& t = text.text();
  EXPECT_EQ(t.find("# TYPE cortex_requests_total"), t.rfind("# TYPE cortex_requests_total"));
  EXPECT_NE(t.find("cortex_requests_total{route=\"/stream\"} 4\n"), std::string::npos);
  EXPECT_NE(t.find("le=\"1e-05\"} 0\n"), std::string::npos) << t;
  EXPECT_NE(t.find("le=\"0.002\"} 2\n"), std::string::npos) << t;
  EXPECT_NE(t.find("cortex_latency_seconds_count 2\n"), std::string::npos);
}

}  // namespace
}  // namespace cortex::testing
