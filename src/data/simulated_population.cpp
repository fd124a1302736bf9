#include "data/simulated_population.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/random.h"

namespace cortex {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kClockHz = 32768;
constexpr double kRefractory = 66 / kClockHz;  // the first tick past 2 ms
constexpr double kMaxRate = 250;               // spikes/s
constexpr double kMaxDrive = 2.2;              // of log rate, over the base
constexpr double kMaxModulation = 0.8;         // gain and drift together
constexpr double kGainStep = 0.1;              // seconds
constexpr double kDriftStep = 10;              // seconds

enum Stream : std::uint64_t {
  kTuningStream = 101,
  kSharedStream,
  kGainStream,
  kSpikeStream,
  kDriftStream
};

double interpolate(const std::vector<double>& grid, double at) {
  const double clamped = std::clamp(at, 0.0, static_cast<double>(grid.size() - 1));
  const auto low = static_cast<std::size_t>(clamped);
  const std::size_t high = std::min(low + 1, grid.size() - 1);
  return grid[low] + (clamped - static_cast<double>(low)) * (grid[high] - grid[low]);
}

/// Log rate over the base: a slope of the unit's own plus a random walk of the session's.
std::vector<double> simulate_drift(std::uint64_t session_seed, std::uint64_t unit,
                                   const UnitTuning& tuning, double seconds) {
  Random random(session_seed, {kDriftStream, unit});
  std::vector<double> drift;
  double level = 0.1 * random.normal();
  for (double t = 0; t <= seconds + kDriftStep; t += kDriftStep) {
    drift.push_back(level);
    level += tuning.drift_slope * kDriftStep / 600 + 0.02 * random.normal();
  }
  return drift;
}

double drive(const UnitTuning& tuning, const Movement& movement, std::size_t now) {
  const std::size_t ahead = std::min(
      movement.samples() - 1, now + static_cast<std::size_t>(std::lround(tuning.lead_s * 1000)));
  const Vec2 p = movement.position_mm[ahead];
  const Vec2 v = movement.velocity_mm_s[ahead];
  const Vec2 plan = movement.intention[now];
  double log_rate = (tuning.posture.x * p.x + tuning.posture.y * p.y) / 100;
  const double speed = std::hypot(v.x, v.y);
  if (speed > 0) {
    const double turn = (tuning.turn.x * p.x + tuning.turn.y * p.y) / 100;
    const double angle = std::atan2(v.y, v.x);
    const double compressed = std::tanh(speed / 450);
    log_rate +=
        compressed * (tuning.even + tuning.first * std::cos(angle - tuning.first_angle - turn) +
                      tuning.second * std::cos(2 * (angle - tuning.second_angle - turn)));
  }
  if (plan.x != 0 || plan.y != 0)
    log_rate += tuning.intention * (plan.x * std::cos(tuning.intention_angle) +
                                    plan.y * std::sin(tuning.intention_angle));
  return std::min(log_rate, kMaxDrive);
}

}  // namespace

UnitTuning draw_tuning(std::uint64_t population_seed, std::uint64_t unit) {
  Random random(population_seed, {kTuningStream, unit});
  Random shared(population_seed, {kSharedStream});
  const double shared_angle = shared.uniform(0, 2 * kPi);
  UnitTuning tuning;
  // One unit in ten is barely active, as in every sorted recording.
  const bool quiet = random.uniform() < 0.1;
  const double scale = 0.6 * random.normal();
  tuning.log_base =
      quiet ? std::log(0.5) + scale : std::min(std::log(18.0) + scale, std::log(40.0));
  tuning.recovery_s = random.uniform(0.002, 0.012);
  tuning.lead_s = random.uniform(0.04, 0.16);
  tuning.even = random.uniform(-0.4, 0.6);
  const double strength = random.lognormal(-0.05, 0.3);
  tuning.first = strength * std::abs(1.6 + 0.5 * random.normal());
  tuning.first_angle = random.uniform(0, 2 * kPi);
  tuning.second = strength * random.uniform(0.6, 1.4);
  tuning.second_angle = random.uniform(0, 2 * kPi);
  // Most of the turn is common to all units, as if the arm carried their preferred directions.
  const double turn = 1.6 + 0.3 * random.normal();
  tuning.turn = {turn * std::cos(shared_angle) + 0.2 * random.normal(),
                 turn * std::sin(shared_angle) + 0.2 * random.normal()};
  tuning.posture = {0.45 * random.normal(), 0.45 * random.normal()};
  tuning.intention = 0.6 * std::abs(random.normal());
  tuning.intention_angle = tuning.first_angle + 1.2 * random.normal();
  tuning.gain = random.uniform(0.5, 1.5);
  tuning.drift_slope = 0.25 * random.normal();
  tuning.dorsal = random.uniform() < 0.5;
  return tuning;
}

std::vector<double> simulate_gain(std::uint64_t session_seed, double seconds) {
  Random random(session_seed, {kGainStream});
  constexpr double kDeviation = 0.2, kTimeConstant = 3;
  const double keep = std::exp(-kGainStep / kTimeConstant);
  const double fresh = kDeviation * std::sqrt(1 - keep * keep);
  const auto points = static_cast<std::size_t>(std::ceil(seconds / kGainStep)) + 2;
  std::vector<double> gain;
  double level = kDeviation * random.normal();
  for (std::size_t k = 0; k < points; ++k) {
    gain.push_back(level);
    level = keep * level + fresh * random.normal();
  }
  return gain;
}

std::vector<double> simulate_spikes(std::uint64_t session_seed, std::uint64_t unit,
                                    const UnitTuning& tuning, const Movement& movement,
                                    const std::vector<double>& gain) {
  Random random(session_seed, {kSpikeStream, unit});
  const double seconds = static_cast<double>(movement.samples() - 1) / 1000;
  const std::vector<double> drift = simulate_drift(session_seed, unit, tuning, seconds);
  // Thinning, Lewis and Shedler 1979: candidates at the highest rate the unit can have, each kept
  // with the ratio of the rate at its time to that.
  const double bound = std::min(kMaxRate, std::exp(tuning.log_base + kMaxDrive + kMaxModulation));
  std::vector<double> spikes;
  for (double time = 0;;) {
    time += random.exponential(bound);
    const double tick = std::floor(time * kClockHz) / kClockHz;
    if (tick >= seconds) break;
    const double keep = random.uniform();
    if (!spikes.empty() && tick - spikes.back() < kRefractory) continue;
    const double modulation = std::clamp(
        tuning.gain * interpolate(gain, tick / kGainStep) + interpolate(drift, tick / kDriftStep),
        -kMaxModulation, kMaxModulation);
    const double rate = std::exp(tuning.log_base + modulation +
                                 drive(tuning, movement, static_cast<std::size_t>(tick * 1000)));
    const double recovered =
        spikes.empty() ? 1
                       : 1 - std::exp(-(tick - spikes.back() - kRefractory) / tuning.recovery_s);
    if (keep * bound < rate * recovered) spikes.push_back(tick);
  }
  return spikes;
}

}  // namespace cortex
