#pragma once

#include <cstdint>
#include <vector>

#include "data/simulated_movement.h"

namespace cortex {

/// What one unit of motor cortex responds to. The logarithm of its rate is
///
///     log base + speed · (even + first · cos(φ - θ(p)) + second · cos 2(φ - ψ(p)))
///              + posture · p + intention terms + gain · g(t) + drift(t)
///
/// of the movement `lead_s` from now: φ its direction, p the hand's position, speed compressed.
/// θ and ψ turn with posture (Caminiti et al. 1990), so one linear readout fits no two places; the
/// second harmonic tells the axis of movement but not its sense; preparatory tuning (Churchland et
/// al. 2006) uses the same units for what has not begun.
struct UnitTuning {
  double log_base = 0;
  double lead_s = 0;
  double even = 0;
  double first = 0;
  double first_angle = 0;
  double second = 0;
  double second_angle = 0;
  Vec2 turn;     ///< radians of θ and ψ per 100 mm
  Vec2 posture;  ///< per 100 mm
  double intention = 0;
  double intention_angle = 0;
  double recovery_s = 0;   ///< time constant of excitability after the refractory period
  double gain = 1;         ///< share of the population's common gain
  double drift_slope = 0;  ///< of log rate, per 10 minutes
  bool dorsal = false;     ///< premotor rather than primary motor cortex
};

UnitTuning draw_tuning(std::uint64_t population_seed, std::uint64_t unit);

/// Excitability that all units share (arousal): an Ornstein-Uhlenbeck process of 3 s, sampled every
/// 100 ms over `seconds`.
std::vector<double> simulate_gain(std::uint64_t session_seed, double seconds);

/// Spike times of one unit, ascending, at least 2 ms apart: an inhomogeneous Poisson process with
/// an absolute and a relative refractory period (cells are more regular than Poisson at high
/// rates), on the clock of a 32.768 kHz recorder.
std::vector<double> simulate_spikes(std::uint64_t session_seed, std::uint64_t unit,
                                    const UnitTuning& tuning, const Movement& movement,
                                    const std::vector<double>& gain);

}  // namespace cortex
