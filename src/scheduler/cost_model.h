#pragma once

#include <array>
#include <cstddef>
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

/// How long a batch takes, learned from those that ran. What is typical of a batch,
///
///     own(rows) * (fixed * table(1) + per_row * table(rows) + per_key * keys),
///
/// starts from what was measured: that is the table, since batching pays here and not there, and it
/// stays as it is. Three parameters are learned for all sizes together (ridge regression whose
/// prior is the table, older batches fading), so that the small batches of a moderate load tell of
/// the large ones that nobody runs: what every batch costs beyond the table (waking, cold caches)
/// is told from what every row costs as soon as sizes differ, and is shared between the two as long
/// as they do not. own(rows) is what one size has to itself.
///
/// The prediction lies a margin above that: an upper quantile, and where the machine becomes slower
/// what follows first. Each batch moves the margin by a bounded share, up where it took longer than
/// predicted and down, less, where not (stochastic gradient descent on the pinball loss, Koenker
/// and Bassett 1978), and is typical up to its prediction at most: a batch that stalled for 100 ms
/// counts no more than one that took a little too long.
class CostModel {
 public:
  static constexpr double kQuantile = 0.95;
  /// One more row is worth waiting for if that saves this share of running it alone.
  static constexpr double kLeastGain = 0.05;

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
  /// Whether a row that takes `more` of a batch's time should join it, where it takes `alone`.
  static bool joins(double more, double alone) { return more <= (1 - kLeastGain) * alone; }
  /// Rows a second in the long run, where there is always work: in batches that grow while rows
  /// should join, up to `max_rows` and the largest that is predicted to take no longer than
  /// `longest`; a batch of one is always allowed. By what batches took on average, stalls and
  /// pauses included.
  double rows_hz(int max_rows, TimeNs longest = kNever) const;
  /// A running mean of what batches held; at first of what was measured.
  double keys_per_row() const { return keys_per_row_; }

 private:
  // Of fixed, per_row and per_key.
  static constexpr std::size_t kTerms = 3;
  using Terms = std::array<double, kTerms>;
  struct Place {
    std::size_t knot;
    double weight;  // of the next knot
  };

  /// The table is there: predicts as it says, `key_ns` for every key, with that margin.
  void begin(double key_ns, double margin);
  Place place(int rows) const;
  double at(const std::vector<double>& knots, int rows) const;
  /// What each parameter is multiplied by, ns.
  Terms terms(int rows, double keys) const;
  double typical(int rows, double keys) const;
  /// Learns what a batch of `ns` is typical of.
  void learn(int rows, double keys, double ns);

  std::vector<int> knots_;
  std::vector<double> table_;  // at each knot, ns
  std::vector<double> own_;    // at each knot, around 1
  double key_unit_ = 0;        // ns a key for which per_key is 1
  Terms prior_ = {{0, 1, 0}};
  Terms parameters_ = prior_;
  // Sums of products of terms with terms, and with what batches took, fading.
  std::array<Terms, kTerms> products_ = {};
  Terms targets_ = {};
  double margin_ = 1;
  double keys_per_row_ = 0;
  double lowest_ = 0;  // prediction of one row without keys, ever
  // Time that batches took and what was typical of them, fading as more is added.
  double took_ns_ = 0;
  double typical_ns_ = 0;
  bool known_ = false;
};

}  // namespace cortex
