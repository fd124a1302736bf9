#include "data/bits_per_spike.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "core/random.h"

namespace cortex {
namespace {

int poisson(Random& random, double mean) {
  int n = 0;
  for (double t = random.exponential(1); t < mean; t += random.exponential(1)) ++n;
  return n;
}

struct Session {
  static constexpr std::size_t kUnits = 5;
  std::vector<std::vector<double>> rates;  // [bins][units], expected spikes
  std::vector<std::vector<int>> counts;
};

/// Units whose rates follow one slow rhythm, each with its own phase.
Session simulated() {
  Session s;
  Random random(3, {});
  for (int bin = 0; bin < 4000; ++bin) {
    std::vector<double> rates;
    std::vector<int> counts;
    for (std::size_t u = 0; u < Session::kUnits; ++u) {
      rates.push_back(0.1 * static_cast<double>(u + 1) *
                      std::exp(std::sin(bin * 0.05 + static_cast<double>(u))));
      counts.push_back(poisson(random, rates.back()));
    }
    s.rates.push_back(rates);
    s.counts.push_back(counts);
  }
  return s;
}

template <class F>
double score(const Session& s, F rate) {
  BitsPerSpike bits(Session::kUnits);
  for (std::size_t bin = 0; bin < s.counts.size(); ++bin)
    for (std::size_t u = 0; u < Session::kUnits; ++u) bits.add(u, rate(bin, u), s.counts[bin][u]);
  return bits.score();
}

TEST(BitsPerSpike, IsTheFormulaOnTwoBins) {
  BitsPerSpike bits(1);
  bits.add(0, 0.5, 0);
  bits.add(0, 2.0, 2);
  // The mean is 1 spike a bin.
  const double model = (0 * std::log(0.5) - 0.5) + (2 * std::log(2.0) - 2.0);
  const double mean = (0 - 1.0) + (2 * std::log(1.0) - 1.0);
  EXPECT_DOUBLE_EQ(bits.score(), (model - mean) / (2 * std::numbers::ln2));
  EXPECT_EQ(bits.spikes(), 2);
  EXPECT_EQ(bits.bins(), 2);
}

TEST(BitsPerSpike, EachUnitsMeanRateScoresNothing) {
  const Session s = simulated();
  std::vector<double> means(Session::kUnits, 0);
  for (const auto& row : s.counts)
    for (std::size_t u = 0; u < means.size(); ++u)
      means[u] += row[u] / static_cast<double>(s.counts.size());
  EXPECT_NEAR(score(s, [&](std::size_t, std::size_t u) { return means[u]; }), 0, 1e-12);
}

TEST(BitsPerSpike, TheTrueRatesOfASimulatedSessionScoreMostAndWrongOnesLess) {
  const Session s = simulated();
  const auto rate = [&](std::size_t bin, std::size_t u) { return s.rates[bin][u]; };
  const double truth = score(s, rate);
  EXPECT_GT(truth, 0.1);
  EXPECT_LT(score(s, [&](std::size_t bin, std::size_t u) { return 2 * rate(bin, u); }), truth);
  EXPECT_LT(score(s, [&](std::size_t bin, std::size_t u) { return std::sqrt(rate(bin, u)); }),
            truth);
  // Another unit's rhythm is worse than none.
  EXPECT_LT(score(s,
                  [&](std::size_t bin, std::size_t u) {
                    return s.rates[bin][(u + 3) % Session::kUnits] * static_cast<double>(u + 1) /
                           static_cast<double>((u + 3) % Session::kUnits + 1);
                  }),
            0);
}

TEST(BitsPerSpike, SilentUnitsAndImpossibleRatesAreFinite) {
  BitsPerSpike bits(2);
  EXPECT_TRUE(std::isnan(bits.score()));
  bits.add(0, 0.1, 0);
  EXPECT_TRUE(std::isnan(bits.score()));
  bits.add(1, 0, 1);
  EXPECT_TRUE(std::isfinite(bits.score()));
  EXPECT_LT(bits.score(), 0);
}

}  // namespace
}  // namespace cortex
