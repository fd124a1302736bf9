#pragma once

#include <cstdint>
#include <vector>

#include "model/config.h"
#include "train/timeline.h"

namespace cortex::train {

/// Spikes of a batch of equally long crops, host memory, ready for a network.
struct CropBatch {
  std::int64_t crops = 0;
  std::int64_t steps = 0;            ///< of each crop
  std::vector<std::int64_t> indptr;  ///< [crops * steps + 1] into events
  std::vector<Event> events;         ///< bins count from the crop's start
  std::vector<float> target;         ///< [crops * steps, dims], physical units, 0 where masked
  std::vector<std::uint8_t> mask;    ///< [crops * steps] 1 where scored
  std::int64_t scored = 0;

  /// Spikes hidden from the network, [crops * steps, units * bins of a step]; empty where none are.
  std::vector<std::uint8_t> asked;  ///< 1 for the hidden cells of scored steps
  std::vector<float> hidden;        ///< spikes in them; 0 elsewhere
  std::int64_t asked_cells = 0;

  std::int64_t rows() const { return crops * steps; }
};

/// How a batch is varied so that a model does not lean on any one unit or spike.
struct Augmentation {
  /// A crop silences each unit throughout with a chance that it draws from [0, unit_dropout]: one
  /// fixed chance would make the whole population, which is what is decoded later, a rare sight.
  double unit_dropout = 0;
  double thinning = 0;  ///< and loses each spike with a chance drawn from [0, thinning]
  /// Chance that a crop is scored from its first step on: nothing is known before, as when a
  /// session begins.
  double fresh_starts = 0;
  /// A crop hides each unit throughout with this chance, held-out units always, ...
  double hide_units = 0;
  double hide_bins = 0;  ///< ... and each (unit, bin) that is left with this one.

  bool hides() const { return hide_units > 0 || hide_bins > 0; }
};

/// Where a crop lies: steps [start, start + length) of a part of the timeline.
struct Crop {
  std::int64_t part = 0;
  std::int64_t start = 0;
};

/// Draws crops at random points of a timeline, weighted by how many scored steps follow the
/// warm-up. What iteration n draws is a function of (seed, n) alone, so an interrupted run goes on
/// exactly.
class CropSampler {
 public:
  /// invalid_argument when no crop of this length scores a step.
  static Result<CropSampler> create(const Timeline& timeline, std::int64_t length,
                                    std::int64_t warmup);

  std::vector<Crop> draw(std::uint64_t seed, std::uint64_t iteration, std::int64_t count) const;
  std::int64_t length() const { return length_; }
  std::int64_t warmup() const { return warmup_; }

 private:
  std::int64_t length_ = 0;
  std::int64_t warmup_ = 0;
  std::vector<std::int64_t> first_;   // [parts + 1] start positions before each part
  std::vector<std::int64_t> weight_;  // [positions] cumulative scored steps
};

/// Packs crops; the first `warmup` steps of each are not scored but in a fresh start. `first`: how
/// many crops of the iteration come before these, so that each is varied as it would be in the
/// whole batch.
CropBatch pack_crops(const Timeline& timeline, const std::vector<Crop>& crops, std::int64_t length,
                     std::int64_t warmup, const Augmentation& augmentation, std::uint64_t seed,
                     std::uint64_t iteration, std::uint64_t first = 0);

/// The crops of iteration n that are this rank's, in `parts` batches of equal size (the last may be
/// smaller): those of all ranks together hold exactly what one batch of `count` crops does.
std::vector<CropBatch> pack_parts(const Timeline& timeline, const CropSampler& sampler,
                                  const Augmentation& augmentation, std::uint64_t seed,
                                  std::uint64_t iteration, std::int64_t count, std::int64_t parts,
                                  int rank = 0, int ranks = 1);

/// `length` steps from `span` as they are, scored where the mask says.
CropBatch whole_span(const Timeline& timeline, const Crop& span, std::int64_t length);

/// splitmix64 over a counter: the same numbers on every machine.
class CounterRandom {
 public:
  CounterRandom(std::uint64_t seed, std::uint64_t iteration, std::uint64_t stream);
  std::uint64_t next();
  double uniform() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  /// In [0, n).
  std::int64_t below(std::int64_t n);

 private:
  std::uint64_t state_;
};

}  // namespace cortex::train
