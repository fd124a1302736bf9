#include "core/random.h"

#include <cmath>
#include <numbers>

namespace cortex {
namespace {

constexpr std::uint64_t kGolden = 0x9e3779b97f4a7c15u;

std::uint64_t mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

Random::Random(std::uint64_t seed, std::initializer_list<std::uint64_t> path)
    : state_(mix(seed + kGolden)) {
  for (const std::uint64_t part : path) state_ = mix(state_ ^ mix(part + kGolden));
}

std::uint64_t Random::next() { return mix(state_ += kGolden); }

double Random::uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }

double Random::uniform(double low, double high) { return low + (high - low) * uniform(); }

std::uint64_t Random::below(std::uint64_t n) {
  return static_cast<std::uint64_t>(uniform() * static_cast<double>(n));
}

double Random::normal() {
  const double radius = std::sqrt(-2 * std::log(1 - uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

double Random::exponential(double rate) { return -std::log(1 - uniform()) / rate; }

double Random::lognormal(double log_mean, double log_deviation) {
  return std::exp(log_mean + log_deviation * normal());
}

}  // namespace cortex
