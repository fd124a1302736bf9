#include "data/simulated_movement.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/random.h"

namespace cortex {
namespace {

constexpr double kWorkspaceMm = 110;
constexpr int kDirections = 16;
constexpr double kMillisecond = 1e-3;

enum Stream : std::uint64_t { kTrialStream = 1, kTremorStream, kSplitStream };

/// Minimum jerk, Flash and Hogan 1985: fraction of the way, and its rate, at fraction `x` of the
/// time.
double jerk_path(double x) { return x * x * x * (10 + x * (-15 + 6 * x)); }
double jerk_rate(double x) { return 30 * x * x * (1 - x) * (1 - x); }

/// A bow to the side that starts and ends without velocity or acceleration; 1 at the middle.
double bow_path(double x) { return 64 * std::pow(x * (1 - x), 3); }
double bow_rate(double x) { return 192 * std::pow(x * (1 - x), 2) * (1 - 2 * x); }

struct Reach {
  Vec2 from, to;
  double bow_mm = 0;
  double duration_s = 0;

  double distance() const { return std::hypot(to.x - from.x, to.y - from.y); }
  Vec2 direction() const { return {(to.x - from.x) / distance(), (to.y - from.y) / distance()}; }
  Vec2 position(double x) const {
    const Vec2 along = direction();
    const double s = distance() * jerk_path(x), b = bow_mm * bow_path(x);
    return {from.x + along.x * s - along.y * b, from.y + along.y * s + along.x * b};
  }
  Vec2 velocity(double x) const {
    const Vec2 along = direction();
    const double s = distance() * jerk_rate(x) / duration_s, b = bow_mm * bow_rate(x) / duration_s;
    return {along.x * s - along.y * b, along.y * s + along.x * b};
  }
};

Reach draw_reach(Random& random, const Vec2& from) {
  Reach reach;
  reach.from = from;
  double distance = 0;
  for (int attempt = 0;; ++attempt) {
    const double angle =
        2 * std::numbers::pi / kDirections * static_cast<double>(random.below(kDirections));
    distance = random.uniform(50, 150);
    reach.to = {from.x + distance * std::cos(angle), from.y + distance * std::sin(angle)};
    if (std::hypot(reach.to.x, reach.to.y) <= kWorkspaceMm) break;
    if (attempt == 1000) {
      reach.to = {-from.x / 2, -from.y / 2};
      distance = reach.distance();
      break;
    }
  }
  // Longer reaches take longer, but less than in proportion.
  reach.duration_s = (0.26 + 0.0021 * distance) * random.uniform(0.85, 1.3);
  const double side = random.uniform() < 0.5 ? -1 : 1;
  const bool bowed = random.uniform() < 1.0 / 3;
  const double bow = side * random.uniform(0.1, 0.3) * distance;
  reach.bow_mm = bowed ? bow : 0;
  return reach;
}

/// Two one-pole low-pass filters over white noise: a smooth displacement of 0.3 mm, 8 mm/s.
void add_tremor(Random random, Movement& movement) {
  constexpr double kPole = 0.025, kGain = 0.3 / 0.08;
  Vec2 first, second;
  for (std::size_t k = 0; k < movement.samples(); ++k) {
    first.x += kPole * (random.normal() - first.x);
    first.y += kPole * (random.normal() - first.y);
    const Vec2 step{kPole * (first.x - second.x), kPole * (first.y - second.y)};
    second.x += step.x;
    second.y += step.y;
    movement.position_mm[k].x += kGain * second.x;
    movement.position_mm[k].y += kGain * second.y;
    movement.velocity_mm_s[k].x += kGain * step.x / kMillisecond;
    movement.velocity_mm_s[k].y += kGain * step.y / kMillisecond;
  }
}

std::size_t sample_at(double seconds, std::size_t limit) {
  return std::min(limit, static_cast<std::size_t>(std::llround(std::max(0.0, seconds) * 1000)));
}

double to_millisecond(double seconds) { return std::round(seconds * 1000) / 1000; }

constexpr double kOnsetShare = 0.05;  // of a reach's top speed

/// The first of samples `first` to `last` as fast as an onset, as recordings mark it.
std::size_t onset_sample(const std::vector<Vec2>& velocity, std::size_t first, std::size_t last) {
  const auto speed = [&](std::size_t k) { return std::hypot(velocity[k].x, velocity[k].y); };
  double top = 0;
  for (std::size_t k = first; k < last; ++k) top = std::max(top, speed(k));
  while (first < last && speed(first) < kOnsetShare * top) ++first;
  return first;
}

}  // namespace

Movement simulate_movement(std::uint64_t session_seed, double seconds, double val_fraction) {
  Movement movement;
  const auto samples = static_cast<std::size_t>(std::llround(seconds * 1000)) + 1;
  movement.position_mm.resize(samples);
  movement.velocity_mm_s.resize(samples);
  movement.intention.resize(samples);
  const double split_phase = Random(session_seed, {kSplitStream}).uniform();
  Vec2 hand;
  double now = 0.5;
  std::size_t filled = 0;
  for (std::int64_t id = 0;; ++id) {
    Random random(session_seed, {kTrialStream, static_cast<std::uint64_t>(id)});
    const double start = to_millisecond(now + random.uniform(0.1, 1.0));
    const double target_on = to_millisecond(start + random.uniform(0.1, 0.25));
    const double go = to_millisecond(target_on + random.uniform(0.2, 0.6));
    const double begin = to_millisecond(go + random.uniform(0.15, 0.3));
    const Reach reach = draw_reach(random, hand);
    const double end = begin + reach.duration_s;
    const double stop = to_millisecond(end + random.uniform(0.15, 0.35));
    if (stop > seconds) break;

    const std::size_t first = sample_at(begin, samples), last = sample_at(end, samples);
    for (std::size_t k = filled; k < first; ++k) movement.position_mm[k] = hand;
    for (std::size_t k = first; k < last; ++k) {
      const double x =
          std::clamp((static_cast<double>(k) * kMillisecond - begin) / reach.duration_s, 0.0, 1.0);
      movement.position_mm[k] = reach.position(x);
      movement.velocity_mm_s[k] = reach.velocity(x);
    }
    filled = last;
    const Vec2 along = reach.direction();
    for (std::size_t k = sample_at(target_on, samples); k < first; ++k) {
      const double rise = 1 - std::exp(-(static_cast<double>(k) * kMillisecond - target_on) / 0.08);
      const double scale = rise * reach.distance() / 100;
      movement.intention[k] = {scale * along.x, scale * along.y};
    }
    const std::size_t onset = onset_sample(movement.velocity_mm_s, first, last);
    Trial trial;
    trial.id = id;
    trial.span = {start, stop};
    trial.columns = {{"target_on_time", target_on},
                     {"go_cue_time", go},
                     {"move_onset_time", static_cast<double>(onset) / 1000},
                     {"target_x", reach.to.x},
                     {"target_y", reach.to.y}};
    // Steps of the golden ratio spread the held-back trials evenly over the session.
    const double turn = split_phase + static_cast<double>(id) * (std::numbers::phi - 1);
    trial.split = turn - std::floor(turn) < val_fraction ? "val" : "train";
    movement.trials.push_back(std::move(trial));
    hand = reach.to;
    now = stop;
  }
  for (std::size_t k = filled; k < samples; ++k) movement.position_mm[k] = hand;
  add_tremor(Random(session_seed, {kTremorStream}), movement);
  return movement;
}

}  // namespace cortex
