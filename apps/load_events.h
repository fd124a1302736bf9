#pragma once

#include <cortex/events.h>

#include <cstdint>
#include <span>
#include <vector>

#include "load_options.h"

namespace cortex {

/// Events of a load: a function of the seed, the session and the step alone, so that an answer can
/// be checked later without keeping what was sent.
class LoadEvents {
 public:
  LoadEvents(const LoadFacts& facts, const LoadOptions& options);

  /// Until the next call.
  std::span<const Event> step(int session, std::int64_t step);
  /// Window `index` of kWindows, with exactly LoadOptions::events events.
  std::span<const Event> window(int index);
  /// A load of windows sends these in turn.
  static constexpr int kWindows = 64;

 private:
  void fill(std::uint64_t state, int count, std::int64_t first_bin, int bins);

  LoadFacts facts_;
  std::uint64_t seed_;
  int mean_;
  bool even_;
  std::vector<Event> events_;
};

}  // namespace cortex
