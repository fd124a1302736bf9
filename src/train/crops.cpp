#include "train/crops.h"

#include <fmt/format.h>

#include <algorithm>

namespace cortex::train {
namespace {

// Streams of random numbers that one iteration draws from.
constexpr std::uint64_t kPlaces = 0;
constexpr std::uint64_t kFirstCrop = 1;
constexpr std::uint64_t kFirstHidden = std::uint64_t{1} << 32;

std::uint64_t mix(std::uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

std::int64_t starts_in(const TimelinePart& part, std::int64_t length) {
  return std::max<std::int64_t>(1, part.steps() - length + 1);
}

/// Which cells of a crop are hidden, a step at a time.
class HiddenCells {
 public:
  HiddenCells(const Timeline& timeline, const Augmentation& augmentation, std::int64_t bins,
              CounterRandom random)
      : bins_(bins), chance_(augmentation.hide_bins), random_(random) {
    if (!augmentation.hides()) return;
    for (const std::uint8_t held_out : timeline.unit_held_out)
      units_.push_back(random_.uniform() < augmentation.hide_units || held_out);
    cells_.resize(units_.size() * static_cast<std::size_t>(bins));
  }

  /// Draws those of the next step and appends its row to the batch, asked for if it is `scored`.
  void next_step(CropBatch& batch, bool scored) {
    if (cells_.empty()) return;
    for (std::size_t cell = 0; cell < cells_.size(); ++cell)
      cells_[cell] = units_[cell / static_cast<std::size_t>(bins_)] || random_.uniform() < chance_;
    row_ = batch.hidden.size();
    scored_ = scored;
    batch.hidden.resize(row_ + cells_.size(), 0.0f);
    batch.asked.resize(row_ + cells_.size(), 0);
    if (!scored) return;
    std::copy(cells_.begin(), cells_.end(),
              batch.asked.end() - static_cast<std::ptrdiff_t>(cells_.size()));
    batch.asked_cells += std::count(cells_.begin(), cells_.end(), std::uint8_t{1});
  }

  /// Whether the event, `bin` bins into the step, is hidden; the batch then holds it as an answer.
  bool takes(const Event& event, std::int64_t bin, CropBatch& batch) const {
    if (cells_.empty()) return false;
    const auto cell = static_cast<std::size_t>(event.unit * bins_ + bin);
    if (cells_[cell] && scored_) batch.hidden[row_ + cell] += static_cast<float>(event.value);
    return cells_[cell] != 0;
  }

 private:
  std::int64_t bins_;
  double chance_;
  CounterRandom random_;
  std::vector<std::uint8_t> units_;  // hidden throughout
  std::vector<std::uint8_t> cells_;  // [units * bins] of this step; empty: nothing is hidden
  std::size_t row_ = 0;
  bool scored_ = false;
};

void append_crop(CropBatch& batch, const Timeline& timeline, const Crop& crop, std::int64_t warmup,
                 const Augmentation& augmentation, CounterRandom random, CounterRandom hiding) {
  const TimelinePart& part = timeline.parts[crop.part];
  const std::int64_t bins = static_cast<std::int64_t>(timeline.step_ms / timeline.bin_ms + 0.5);
  std::vector<std::uint8_t> silent(timeline.unit_ids.size(), 0);
  if (augmentation.unit_dropout > 0) {
    const double rate = augmentation.unit_dropout * random.uniform();
    for (auto& s : silent) s = random.uniform() < rate;
  }
  HiddenCells cells(timeline, augmentation, bins, hiding);
  const double lose = augmentation.thinning > 0 ? augmentation.thinning * random.uniform() : 0;
  const bool fresh = augmentation.fresh_starts > 0 && random.uniform() < augmentation.fresh_starts;
  for (std::int64_t i = 0; i < batch.steps; ++i) {
    const std::int64_t s = crop.start + i;
    const bool inside = s < part.steps();
    const bool scored = inside && (fresh || i >= warmup) && part.mask[s];
    cells.next_step(batch, scored);
    if (inside)
      for (std::int64_t k = part.indptr[s]; k < part.indptr[s + 1]; ++k) {
        Event e = part.events[k];
        e.bin -= crop.start * bins;
        if (cells.takes(e, e.bin - i * bins, batch) || silent[e.unit]) continue;
        if (lose > 0) {
          const std::int32_t had = e.value;
          for (std::int32_t n = 0; n < had; ++n) e.value -= random.uniform() < lose;
          if (e.value == 0) continue;
        }
        batch.events.push_back(e);
      }
    batch.indptr.push_back(static_cast<std::int64_t>(batch.events.size()));
    batch.mask.push_back(scored);
    batch.scored += scored;
    for (std::size_t d = 0; d < timeline.dims; ++d)
      batch.target.push_back(scored ? part.target[s * timeline.dims + d] : 0.0f);
  }
}

}  // namespace

CounterRandom::CounterRandom(std::uint64_t seed, std::uint64_t iteration, std::uint64_t stream)
    : state_(mix(mix(mix(seed + 0x9e3779b97f4a7c15ULL) ^ iteration) +
                 0x632be59bd9b4e019ULL * stream)) {}

std::uint64_t CounterRandom::next() { return mix(state_ += 0x9e3779b97f4a7c15ULL); }

std::int64_t CounterRandom::below(std::int64_t n) {
  return std::min(n - 1, static_cast<std::int64_t>(uniform() * static_cast<double>(n)));
}

Result<CropSampler> CropSampler::create(const Timeline& timeline, std::int64_t length,
                                        std::int64_t warmup) {
  if (length <= warmup)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("crops of {} steps leave nothing to score after {} steps of warm-up",
                             length, warmup),
                 "crop-steps"};
  CropSampler sampler;
  sampler.length_ = length;
  sampler.warmup_ = warmup;
  sampler.first_.push_back(0);
  std::int64_t total = 0;
  for (const TimelinePart& part : timeline.parts) {
    std::vector<std::int64_t> before(static_cast<std::size_t>(part.steps()) + 1, 0);
    for (std::int64_t s = 0; s < part.steps(); ++s) before[s + 1] = before[s] + part.mask[s];
    const std::int64_t starts = starts_in(part, length);
    for (std::int64_t start = 0; start < starts; ++start) {
      const std::int64_t from = std::min(start + warmup, part.steps());
      const std::int64_t to = std::min(start + length, part.steps());
      total += before[to] - before[from];
      sampler.weight_.push_back(total);
    }
    sampler.first_.push_back(static_cast<std::int64_t>(sampler.weight_.size()));
  }
  if (total == 0)
    return Error{ErrorCode::invalid_argument,
                 "no crop of the recordings holds a step to train on: no observed step of a "
                 "training trial with a finite target follows the warm-up",
                 "nwb"};
  return sampler;
}

std::vector<Crop> CropSampler::draw(std::uint64_t seed, std::uint64_t iteration,
                                    std::int64_t count) const {
  CounterRandom random(seed, iteration, kPlaces);
  std::vector<Crop> crops;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t at = random.below(weight_.back());
    const auto position = std::upper_bound(weight_.begin(), weight_.end(), at) - weight_.begin();
    const auto part = std::upper_bound(first_.begin(), first_.end(), position) - first_.begin() - 1;
    crops.push_back({part, position - first_[part]});
  }
  return crops;
}

CropBatch pack_crops(const Timeline& timeline, const std::vector<Crop>& crops, std::int64_t length,
                     std::int64_t warmup, const Augmentation& augmentation, std::uint64_t seed,
                     std::uint64_t iteration, std::uint64_t first) {
  CropBatch batch;
  batch.crops = static_cast<std::int64_t>(crops.size());
  batch.steps = length;
  batch.indptr.push_back(0);
  for (std::size_t i = 0; i < crops.size(); ++i)
    append_crop(batch, timeline, crops[i], warmup, augmentation,
                CounterRandom(seed, iteration, kFirstCrop + first + i),
                CounterRandom(seed, iteration, kFirstHidden + first + i));
  return batch;
}

std::vector<CropBatch> pack_parts(const Timeline& timeline, const CropSampler& sampler,
                                  const Augmentation& augmentation, std::uint64_t seed,
                                  std::uint64_t iteration, std::int64_t count, std::int64_t parts,
                                  int rank, int ranks) {
  const std::vector<Crop> crops = sampler.draw(seed, iteration, count);
  const std::int64_t begin = count * rank / ranks;
  const std::int64_t end = count * (rank + 1) / ranks;
  const std::int64_t size = std::max<std::int64_t>(1, (end - begin + parts - 1) / parts);
  std::vector<CropBatch> out;
  for (std::int64_t from = begin; from < end; from += size) {
    const std::int64_t to = std::min(end, from + size);
    out.push_back(pack_crops(timeline, {crops.begin() + from, crops.begin() + to}, sampler.length(),
                             sampler.warmup(), augmentation, seed, iteration,
                             static_cast<std::uint64_t>(from)));
  }
  return out;
}

CropBatch whole_span(const Timeline& timeline, const Crop& span, std::int64_t length) {
  CropBatch batch;
  batch.crops = 1;
  batch.steps = length;
  batch.indptr.push_back(0);
  append_crop(batch, timeline, span, 0, {}, CounterRandom(0, 0, 0), CounterRandom(0, 0, 0));
  return batch;
}

}  // namespace cortex::train
