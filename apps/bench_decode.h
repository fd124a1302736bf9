#pragma once

#include <cortex/events.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench_ceilings.h"
#include "bench_work.h"
#include "kernels/ops.h"
#include "model/weights.h"

namespace cortex {

/// A model over a backend, fed with random events: what a benchmark calls again and again.
class BenchDecoder {
 public:
  virtual ~BenchDecoder() = default;
  /// Makes the next batch ready; not timed.
  virtual void prepare() = 0;
  /// One forward of the whole batch, [batch, outputs].
  virtual std::span<const float> forward() = 0;
  virtual ForwardFlops flops() const = 0;
  virtual ForwardBytes bytes() const = 0;
  /// Weights and projected tables in the backend's memory.
  virtual std::size_t resident_bytes() const = 0;
};

/// What presets are timed on unless another load is named: 100 units at 20 Hz for a step of 20 ms,
/// the window that latencies are usually quoted for, and a table of units that holds both.
inline constexpr std::int64_t kBenchStepEvents = 40;
inline constexpr std::int64_t kBenchWindowEvents = 512;
inline constexpr int kBenchUnits = 128;

struct DecoderOptions {
  int batch = 1;
  std::int64_t events = 0;  ///< a window, or a step
  std::uint64_t seed = 1;
};

/// Whole forwards of `batch` windows of `events` events at random neurons and bins, or steps of
/// `batch` streams that have each run their whole window already. `ops` outlives it. Throws
/// Exception (invalid_argument, field "events") where the model has no room for so many.
std::unique_ptr<BenchDecoder> make_bench_decoder(const ModelFile& file, Ops& ops,
                                                 const DecoderOptions& options);

/// Random, sorted by (bin, unit), all different: `count` events in bins [first_bin, first_bin +
/// bins) of units [0, units), values 1 to 3. At most units * bins.
std::vector<Event> random_events(std::uint64_t& state, std::int64_t count, std::int64_t units,
                                 std::int64_t first_bin, std::int64_t bins);

struct Timing {
  std::int64_t iterations = 0;
  double p50_us = 0;
  double p99_us = 0;
  double mean_us = 0;
  double min_us = 0;
  double max_us = 0;
};
/// Nearest-rank quantiles; `us` not empty.
Timing summarize_times(std::vector<double> us);

/// Forwards for about `seconds`, at least three, each after `evict_mb` of other traffic.
Timing time_decoder(BenchDecoder& decoder, double seconds, double evict_mb, int threads);

}  // namespace cortex
