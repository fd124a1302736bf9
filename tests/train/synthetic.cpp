#include "train/synthetic.h"

#include <cmath>
#include <fstream>
#include <sstream>

#include "train/crops.h"

namespace cortex::train::testing {

Recording synthetic_recording(int units, int trials, std::uint64_t seed) {
  constexpr double kTrial = 0.5;
  constexpr double kPeriod = 0.8;
  Recording r;
  r.path = "memory.nwb";
  r.identifier = r.session_id = "synthetic";
  BehaviorSeries vel;
  vel.name = "hand_vel";
  vel.unit = "mm/s";
  vel.dims = 2;
  const auto velocity = [&](double t, int d) {
    return 100 * std::sin(2 * M_PI * t * (d ? 1.3 : 0.9)) + 40 * std::cos(2 * M_PI * t * 2.1 + d);
  };
  for (int u = 0; u < units; ++u) {
    Unit unit;
    unit.id = std::to_string(100 + u);
    unit.held_out = u % 4 == 3;
    CounterRandom random(seed, 0, static_cast<std::uint64_t>(u));
    for (int i = 0; i < trials; ++i) {
      const double start = 1 + i * kPeriod;
      unit.observed.push_back({start, start + kTrial});
      for (double t = start; t < start + kTrial; t += 0.001) {
        const double drive =
            30 + 0.25 * (std::cos(u) * velocity(t, 0) + std::sin(u) * velocity(t, 1));
        if (random.uniform() < 0.001 * std::max(1.0, drive)) unit.spike_times_s.push_back(t + 1e-4);
      }
    }
    r.units.push_back(std::move(unit));
  }
  for (int i = 0; i < trials; ++i) {
    const double start = 1 + i * kPeriod;
    Trial trial;
    trial.id = i;
    trial.span = {start, start + kTrial};
    trial.split = i % 4 == 3 ? "val" : "train";
    r.trials.push_back(trial);
    for (double t = start; t < start + kTrial; t += 0.01) {
      vel.times_s.push_back(t);
      for (int d = 0; d < 2; ++d) vel.values.push_back(static_cast<float>(velocity(t, d)));
    }
  }
  r.behavior.push_back(std::move(vel));
  return r;
}

TrainOptions tiny_options(const std::string& out) {
  TrainOptions o;
  o.out = out;
  o.model.dim = 16;
  o.model.heads = 2;
  o.model.layers = 2;
  o.model.window_steps = 6;
  o.model.receptive_steps = 2;
  o.batch = 4;
  o.crop_steps = 24;
  o.iterations = 30;
  o.warmup_iterations = 5;
  o.eval_every = 10;
  o.checkpoint_every = 7;
  o.threads = 1;
  o.device = "cpu";
  o.quiet = true;
  return o;
}

std::string bytes_of(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

}  // namespace cortex::train::testing
