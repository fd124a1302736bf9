#include "load_events.h"

#include <algorithm>

namespace cortex {
namespace {

std::uint64_t next(std::uint64_t& state) {
  state += 0x9e3779b97f4a7c15ULL;
  std::uint64_t z = state;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// Below `bound`, from the high bits.
int below(std::uint64_t random, int bound) {
  return static_cast<int>((random >> 32) * static_cast<std::uint64_t>(bound) >> 32);
}

std::uint64_t state_of(std::uint64_t seed, std::int64_t stream, std::int64_t step) {
  std::uint64_t state = seed;
  state = next(state) ^ static_cast<std::uint64_t>(stream);
  state = next(state) ^ static_cast<std::uint64_t>(step);
  return next(state);
}

}  // namespace

LoadEvents::LoadEvents(const LoadFacts& facts, const LoadOptions& options)
    : facts_(facts), seed_(options.seed), mean_(options.events), even_(options.even_events) {}

void LoadEvents::fill(std::uint64_t state, int count, std::int64_t first_bin, int bins) {
  events_.clear();
  for (int i = 0; i < count; ++i) {
    const int unit = below(next(state), facts_.units);
    const int bin = below(next(state), bins);
    events_.push_back({.unit = unit, .value = 1, .bin = first_bin + bin});
  }
}

std::span<const Event> LoadEvents::step(int session, std::int64_t step) {
  std::uint64_t state = state_of(seed_, session, step);
  const int count = even_ ? mean_ : mean_ / 2 + below(next(state), mean_ + 1);
  fill(state, std::min(count, facts_.max_events), step * facts_.bins_per_step,
       facts_.bins_per_step);
  return events_;
}

std::span<const Event> LoadEvents::window(int index) {
  fill(state_of(seed_, -1, index), std::min(mean_, facts_.max_events), 0, facts_.bins);
  return events_;
}

}  // namespace cortex
