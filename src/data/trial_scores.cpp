#include "data/trial_scores.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <stdexcept>

#include "core/random.h"

namespace cortex {
namespace {

struct Sums {
  explicit Sums(std::size_t dims) : sum(dims, 0), squares(dims, 0), error(dims, 0) {}

  void add(const TrialScore& t) {
    steps += t.steps;
    for (std::size_t d = 0; d < sum.size(); ++d) {
      sum[d] += t.sum[d];
      squares[d] += t.squares[d];
      error[d] += t.error[d];
    }
  }
  double r2(std::size_t d) const {
    const double total = squares[d] - sum[d] * sum[d] / static_cast<double>(steps);
    return total > 0 ? 1 - error[d] / total : std::numeric_limits<double>::quiet_NaN();
  }
  double mean_r2() const {
    double mean = 0;
    for (std::size_t d = 0; d < sum.size(); ++d) mean += r2(d) / static_cast<double>(sum.size());
    return mean;
  }

  std::int64_t steps = 0;
  std::vector<double> sum, squares, error;
};

std::size_t dims_of(std::span<const TrialScore> trials) {
  return trials.empty() ? 0 : trials.front().sum.size();
}

double percentile(std::vector<double>& sorted, double share) {
  const double place = share * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

ConfidenceInterval interval(std::vector<double>& draws, double level) {
  std::erase_if(draws, [](double v) { return std::isnan(v); });
  if (draws.empty()) {
    constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
    return {kNaN, kNaN};
  }
  std::sort(draws.begin(), draws.end());
  return {percentile(draws, (1 - level) / 2), percentile(draws, (1 + level) / 2)};
}

}  // namespace

std::vector<TrialScore> score_trials(std::span<const float> truth, std::span<const float> decoded,
                                     std::span<const std::uint8_t> mask,
                                     std::span<const std::int32_t> trial, std::size_t dims) {
  std::map<std::int32_t, TrialScore> by_trial;
  for (std::size_t row = 0; row < mask.size(); ++row) {
    if (!mask[row]) continue;
    TrialScore& t = by_trial[trial[row]];
    if (t.steps == 0) {
      t.trial = trial[row];
      for (auto* v : {&t.sum, &t.squares, &t.error}) v->assign(dims, 0);
    }
    ++t.steps;
    for (std::size_t d = 0; d < dims; ++d) {
      const double value = truth[row * dims + d];
      const double miss = value - decoded[row * dims + d];
      t.sum[d] += value;
      t.squares[d] += value * value;
      t.error[d] += miss * miss;
    }
  }
  std::vector<TrialScore> out;
  out.reserve(by_trial.size());
  for (auto& [number, score] : by_trial) out.push_back(std::move(score));
  return out;
}

R2 pooled_r2(std::span<const TrialScore> trials) {
  Sums all(dims_of(trials));
  for (const TrialScore& t : trials) all.add(t);
  R2 out;
  out.rows = all.steps;
  for (std::size_t d = 0; d < all.sum.size(); ++d) out.per_dim.push_back(all.r2(d));
  out.mean = trials.empty() ? std::numeric_limits<double>::quiet_NaN() : all.mean_r2();
  return out;
}

ConfidenceInterval bootstrap_r2(std::span<const TrialScore> trials, int resamples,
                                std::uint64_t seed, double level) {
  std::vector<double> draws;
  for (int i = 0; i < resamples && !trials.empty(); ++i) {
    Random random(seed, {static_cast<std::uint64_t>(i)});
    Sums sums(dims_of(trials));
    for (std::size_t n = 0; n < trials.size(); ++n) sums.add(trials[random.below(trials.size())]);
    draws.push_back(sums.mean_r2());
  }
  return interval(draws, level);
}

PairedDifference paired_bootstrap(std::span<const TrialScore> first,
                                  std::span<const TrialScore> second, int resamples,
                                  std::uint64_t seed) {
  const auto same = [](const TrialScore& a, const TrialScore& b) {
    return a.trial == b.trial && a.steps == b.steps && a.sum == b.sum && a.squares == b.squares;
  };
  if (!std::equal(first.begin(), first.end(), second.begin(), second.end(), same))
    throw std::invalid_argument("the two were not scored on the same steps of the same trials");
  PairedDifference out;
  out.difference = pooled_r2(first).mean - pooled_r2(second).mean;
  std::vector<double> draws;
  double above = 0;
  double below = 0;
  for (int i = 0; i < resamples && !first.empty(); ++i) {
    Random random(seed, {static_cast<std::uint64_t>(i)});
    Sums a(dims_of(first));
    Sums b(dims_of(second));
    for (std::size_t n = 0; n < first.size(); ++n) {
      const std::uint64_t at = random.below(first.size());
      a.add(first[at]);
      b.add(second[at]);
    }
    draws.push_back(a.mean_r2() - b.mean_r2());
    above += draws.back() >= 0;
    below += draws.back() <= 0;
  }
  const ConfidenceInterval bounds = interval(draws, 0.95);
  out.low = bounds.low;
  out.high = bounds.high;
  // The draw that was made counts too, so that no p is 0.
  out.p = std::min(1.0, 2 * (std::min(above, below) + 1) / (resamples + 1.0));
  return out;
}

}  // namespace cortex
