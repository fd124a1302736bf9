#include "data/simulator.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/random.h"
#include "data/simulated_movement.h"
#include "data/simulated_population.h"

namespace cortex {
namespace {

constexpr int kElectrodes = 96;
constexpr int kMaxUnits = 100000;
constexpr double kMaxMinutes = 24 * 60;
constexpr std::size_t kDisplayDelay = 15;  // samples of 1 ms
constexpr std::uint64_t kHeldOutStream = 201;

Error out_of_range(const char* field, const std::string& what) {
  return {ErrorCode::invalid_argument, what, field};
}

Result<void> check(const SimulatorOptions& options) {
  if (options.units < 1 || options.units > kMaxUnits)
    return out_of_range("units", fmt::format("units is {}, not 1 to {}", options.units, kMaxUnits));
  if (!(options.minutes >= 0.1 && options.minutes <= kMaxMinutes))
    return out_of_range("minutes",
                        fmt::format("minutes is {}, not 0.1 to {}", options.minutes, kMaxMinutes));
  if (!(options.held_out_fraction >= 0 && options.held_out_fraction <= 1))
    return out_of_range("held_out_fraction", fmt::format("held_out_fraction is {}, not 0 to 1",
                                                         options.held_out_fraction));
  if (!(options.val_fraction >= 0 && options.val_fraction <= 1))
    return out_of_range("val_fraction",
                        fmt::format("val_fraction is {}, not 0 to 1", options.val_fraction));
  return {};
}

/// Sampled at 1 kHz and rounded to the resolution of a tracker, which also compresses well.
BehaviorSeries sample_path(const std::string& name, const std::string& unit,
                           const std::vector<Vec2>& path, std::size_t delay, double resolution) {
  BehaviorSeries series;
  series.name = name;
  series.path = "/processing/behavior/" + name;
  series.unit = unit;
  series.dims = 2;
  series.times_s.reserve(path.size());
  series.values.reserve(path.size() * 2);
  for (std::size_t k = 0; k < path.size(); ++k) {
    const Vec2& at = path[k < delay ? 0 : k - delay];
    series.times_s.push_back(static_cast<double>(k) / 1000);
    series.values.push_back(static_cast<float>(std::round(at.x / resolution) * resolution));
    series.values.push_back(static_cast<float>(std::round(at.y / resolution) * resolution));
  }
  return series;
}

}  // namespace

Result<Recording> simulate(const SimulatorOptions& options) {
  if (auto ok = check(options); !ok) return ok.error();
  Recording recording;
  recording.nwb_version = "2.4.0";
  recording.identifier = fmt::format("simulated-population-{}-session-{}", options.population_seed,
                                     options.session_seed);
  recording.session_id = fmt::format("session-{}", options.session_seed);
  recording.subject_id = fmt::format("simulated-{}", options.population_seed);
  recording.description = "Delayed reaches of a simulated motor-cortex population.";
  recording.session_start_time = "2000-01-01T00:00:00+00:00";

  const double seconds = std::round(options.minutes * 60000) / 1000;
  Movement movement = simulate_movement(options.session_seed, seconds, options.val_fraction);
  recording.behavior.push_back(
      sample_path("cursor_pos", "mm", movement.position_mm, kDisplayDelay, 1.0 / 64));
  recording.behavior.push_back(sample_path("hand_pos", "mm", movement.position_mm, 0, 1.0 / 64));
  recording.behavior.push_back(sample_path("hand_vel", "mm/s", movement.velocity_mm_s, 0, 1.0 / 8));

  for (std::int64_t e = 0; e < kElectrodes; ++e)
    recording.electrodes.push_back(
        {e, e < kElectrodes / 2 ? "Primary motor cortex" : "Dorsal premotor cortex",
         e < kElectrodes / 2 ? "electrode_group_M1" : "electrode_group_PMd"});

  const std::vector<double> gain = simulate_gain(options.session_seed, seconds);
  const double phase = Random(options.population_seed, {kHeldOutStream}).uniform();
  for (int u = 0; u < options.units; ++u) {
    const auto index = static_cast<std::uint64_t>(u);
    const UnitTuning tuning = draw_tuning(options.population_seed, index);
    Unit unit;
    unit.id = std::to_string(u);
    // Steps of the golden ratio hold out the wanted share of any number of units.
    const double turn = phase + u * 0.6180339887498949;
    unit.held_out = turn - std::floor(turn) < options.held_out_fraction;
    unit.electrode = (u / 2) % (kElectrodes / 2) + (tuning.dorsal ? kElectrodes / 2 : 0);
    unit.spike_times_s = simulate_spikes(options.session_seed, index, tuning, movement, gain);
    unit.observed = {{0, seconds}};
    recording.units.push_back(std::move(unit));
  }
  recording.trials = std::move(movement.trials);
  return recording;
}

}  // namespace cortex
