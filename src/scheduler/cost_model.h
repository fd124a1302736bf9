#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/clock.h"

namespace cortex {

/// What one batch took.
struct BatchCost {
  int rows = 0;           ///< steps or windows
  std::int64_t keys = 0;  ///< events of all of them
  TimeNs took = 0;
};

/// How long a batch will take, an upper quantile, learned from those that ran:
///
///     took(rows, keys) = scale * (rows_ns(rows) + key_ns * keys)
///
/// rows_ns is a table, since batching pays here and not there; scale follows the machine. Every
/// batch moves each of them by a bounded share, up where it took longer than predicted and down,
/// less, where not (stochastic gradient descent on the pinball loss, Koenker and Bassett 1978): a
/// batch that stalled for 100 ms counts no more than one that took a little too long.
class CostModel {
 public:
  static constexpr double kQuantile = 0.95;

  /// Starts from measurements, several of the same batch by their median: rows that were not
  /// measured are interpolated, those above the largest extrapolated from the last two (from one:
  /// in proportion). Without any, nothing costs anything until the first batch has run.
  explicit CostModel(int max_rows, std::span<const BatchCost> measured = {});

  /// Nanoseconds; rows at least 1.
  TimeNs predict(int rows, std::int64_t keys) const;
  void observe(const BatchCost& batch);
  /// So long nothing ran between two batches though work was waiting: counts for rows_hz() alone.
  void paused(TimeNs time) { took_ns_ += static_cast<double>(time); }
  /// Something was refused for its predicted cost while nothing ran that could disprove it: the
  /// prediction sinks a little, down to the lowest that it has ever been, so that what was learned
  /// in a slow hour cannot refuse for ever.
  void doubt();
  /// Rows a second in the long run, in the largest batches of up to `max_rows` rows that are
  /// predicted to take no longer than `longest`; a batch of one is always allowed. By what batches
  /// took on average, stalls and pauses included.
  double rows_hz(int max_rows, TimeNs longest = kNever) const;
  /// A running mean of what batches held; at first of what was measured.
  double keys_per_row() const { return keys_per_row_; }

 private:
  struct Place {
    std::size_t knot;
    double weight;  // of the next knot
  };
  Place place(int rows) const;
  double rows_ns(int rows) const;

  std::vector<int> knots_;
  std::vector<double> rows_ns_;  // at each knot
  double key_ns_ = 0;
  double scale_ = 1;
  double keys_per_row_ = 0;
  double lowest_ = 0;  // prediction of one row without keys, ever
  // Time that batches took and what they were predicted to, fading as more is added.
  double took_ns_ = 0;
  double predicted_ns_ = 0;
  bool known_ = false;
};

}  // namespace cortex
