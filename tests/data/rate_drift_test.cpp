#include "data/rate_drift.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/random.h"
#include "data/intervals.h"
#include "data/nwb.h"
#include "data/simulator.h"
#include "recordings.h"

namespace cortex {
namespace {

/// Poisson units over 200 s, unit u at rates[u].
Recording session(const std::vector<double>& rates, std::uint64_t seed) {
  Recording r;
  r.path = "memory.nwb";
  r.session_id = "day";
  for (std::size_t u = 0; u < rates.size(); ++u) {
    Unit unit;
    unit.id = std::to_string(u);
    unit.observed = {{0, 80}, {100, 220}};
    Random random(seed, {u});
    for (const Interval& span : unit.observed)
      for (double t = span.start_s;
           rates[u] > 0 && (t += random.exponential(rates[u])) < span.stop_s;)
        unit.spike_times_s.push_back(t);
    r.units.push_back(std::move(unit));
  }
  return r;
}

std::vector<double> spread_rates(int units) {
  std::vector<double> rates;
  for (int u = 0; u < units; ++u) rates.push_back(0.2 * std::pow(1.08, u));
  return rates;
}

TEST(RateDrift, RatesAreSpikesASecondOfObservedTime) {
  Recording r = session({2}, 1);
  r.units[0].spike_times_s = {1, 2, 90, 101};  // one of them while nothing was recorded
  EXPECT_DOUBLE_EQ(rates_of(r)[0].rate_hz, 3.0 / 200);
}

TEST(RateDrift, ARatioAndAZOfEachUnitAreThoseOfTheFormula) {
  Recording r = session({0, 0}, 1);
  // 20 parts of 10 s; ten spikes in the first alone.
  for (int i = 0; i < 10; ++i) r.units[0].spike_times_s.push_back(0.5 + i * 0.5);
  const auto drift = rate_drift({{"0", 0.25}, {"1", 0}}, r).value_or_throw();
  ASSERT_EQ(drift.units.size(), 2u);
  EXPECT_DOUBLE_EQ(drift.units[0].now_hz, 0.05);
  EXPECT_NEAR(drift.units[0].log2_ratio, std::log2(0.55 / 0.75), 1e-12);
  // One part at 1 spike/s, nineteen at 0: variance (1 - 20 * 0.05^2) / 19.
  EXPECT_NEAR(drift.units[0].z, -0.2 / (std::sqrt(0.95 / 19) * std::sqrt(0.1)), 1e-9);
  EXPECT_EQ(drift.units[1].z, 0);
  EXPECT_NEAR(drift.median_abs_log2, std::log2(0.75 / 0.55), 1e-12);
}

TEST(RateDrift, TheSamePopulationOnAnotherDayIsNoReasonToAdapt) {
  const auto rates = spread_rates(60);
  const auto drift = rate_drift(rates_of(session(rates, 1)), session(rates, 2)).value_or_throw();
  EXPECT_FALSE(drift.advised);
  EXPECT_EQ(drift.changed_share, 0);
  EXPECT_LT(drift.median_abs_z, 1.2);
}

TEST(RateDrift, UnitsThatDoubleOrHalveAreNamedAndAFifthOfThemAdvisesToAdapt) {
  const std::vector<double> before(40, 8.0);
  std::vector<double> now = before;
  for (std::size_t u = 0; u < 7; ++u) now[u] = u % 2 ? 24 : 2;
  const auto few = rate_drift(rates_of(session(before, 1)), session(now, 2)).value_or_throw();
  for (std::size_t u = 0; u < now.size(); ++u) {
    EXPECT_EQ(few.units[u].changed, u < 7) << u;
    if (u >= 7) continue;
    EXPECT_EQ(few.units[u].log2_ratio > 0, now[u] > 8);
  }
  EXPECT_NEAR(few.changed_share, 7.0 / 40, 1e-12);
  EXPECT_FALSE(few.advised);
  now[7] = 30;
  const auto many = rate_drift(rates_of(session(before, 1)), session(now, 2)).value_or_throw();
  EXPECT_TRUE(many.advised);
}

TEST(RateDrift, LostAndNewUnitsCountAsChanged) {
  const Recording r = session(std::vector<double>(10, 5.0), 1);
  std::vector<UnitRate> before = rates_of(r);
  before[9].id = "gone";
  const auto drift = rate_drift(before, r).value_or_throw();
  EXPECT_EQ(drift.lost, (std::vector<std::string>{"gone"}));
  EXPECT_EQ(drift.fresh, (std::vector<std::string>{"9"}));
  EXPECT_EQ(drift.units.size(), 9u);
  EXPECT_NEAR(drift.changed_share, 2.0 / 11, 1e-12);
}

TEST(RateDrift, UnitsOfAModelOfSeveralSessionsAreFoundUnderTheirSession) {
  const Recording r = session({5, 5}, 1);
  const auto drift = rate_drift({{"day/0", 5}, {"day/1", 5}, {"other/0", 5}}, r).value_or_throw();
  EXPECT_EQ(drift.units.size(), 2u);
  EXPECT_TRUE(drift.fresh.empty());
  EXPECT_EQ(drift.lost, (std::vector<std::string>{"other/0"}));
}

TEST(RateDrift, SimulatedSessionsOfOnePopulationAgreeAndOthersDoNot) {
  const auto session_of = [](std::uint64_t population, std::uint64_t session) {
    return simulate({.population_seed = population, .session_seed = session}).value_or_throw();
  };
  const auto before = rates_of(session_of(1, 1));
  EXPECT_LT(rate_drift(before, session_of(1, 2)).value_or_throw().changed_share, 0.05);
  EXPECT_TRUE(rate_drift(before, session_of(2, 2)).value_or_throw().advised);
}

Recording half(Recording recording, bool second) {
  const auto observed = observed_time(recording);
  const double length = total_length(observed);
  for (Unit& unit : recording.units)
    unit.observed = slice(observed, second ? length / 2 : 0, second ? length : length / 2);
  return recording;
}

TEST(RateDrift, HalvesOfGenuineSessionsAreNoReasonToAdaptAndAnotherMonthIs) {
  const auto path = [](const std::string& name) { return testing::data_path("reach/" + name); };
  const std::string october = path("chewie_20131003.nwb");
  const std::string december = path("chewie_20131219.nwb");
  for (const auto& file : {path("center_out_98.nwb"), october, december}) {
    CORTEX_SKIP_WITHOUT(file);
    const Recording whole = read_nwb(file).value_or_throw();
    const auto drift = rate_drift(rates_of(half(whole, false)), half(whole, true)).value_or_throw();
    EXPECT_LT(drift.changed_share, 0.05) << file;
  }
  const auto drift =
      rate_drift(rates_of(read_nwb(october).value_or_throw()), read_nwb(december).value_or_throw())
          .value_or_throw();
  EXPECT_TRUE(drift.advised);
  EXPECT_GT(drift.changed_share, 0.6);
}

TEST(RateDrift, WithoutRatesOrTimeThereIsNothingToCompare) {
  const Recording r = session({5}, 1);
  EXPECT_EQ(rate_drift({}, r).error().field, "drift");
  EXPECT_EQ(rate_drift({{"0", 0}}, r).error().field, "drift");
  Recording empty = r;
  empty.units.clear();
  EXPECT_EQ(rate_drift({{"0", 5}}, empty).error().field, "drift");
  Recording unseen = r;
  unseen.units[0].observed.clear();
  unseen.units[0].spike_times_s.clear();
  EXPECT_EQ(rate_drift({{"0", 5}}, unseen).error().field, "drift");
}

}  // namespace
}  // namespace cortex
