#include "scheduler/cost_model.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <tuple>

namespace cortex {
namespace {

// Every number of rows up to this has a knot; from there on four each time it doubles.
constexpr int kDense = 16;
constexpr int kPerOctave = 4;

// Shares by which a batch above its prediction moves the margin, and an untypical one its knots.
constexpr double kMarginStep = 0.03;
constexpr double kKnotStep = 0.002;
// Batches that the regression remembers, and as how many of them the measurements count.
constexpr double kMemory = 10'000;
constexpr double kPriorWeight = 16;
// Sweeps of coordinate descent a batch, each from where the last one ended.
constexpr int kSweeps = 8;
// Of fixed, per_row and per_key.
constexpr std::array kLeast = {0.0, 1e-3, 0.0};
// What was measured is typical, what is predicted an upper quantile.
constexpr double kStartMargin = 1.1;
constexpr double kDoubtStep = 0.02;
constexpr double kKeysMemory = 1.0 / 128;
// Averages reach back over so much time; the measurements count as this much of it.
constexpr double kMemoryNs = 10e9;
constexpr double kStartNs = 0.5e9;

std::vector<int> make_knots(int max_rows) {
  std::vector<int> knots;
  for (int rows = 1; rows < std::min(max_rows, kDense); ++rows) knots.push_back(rows);
  for (int rows = kDense; rows < max_rows;) {
    knots.push_back(rows);
    rows += static_cast<int>(std::bit_floor(static_cast<unsigned>(rows))) / kPerOctave;
  }
  knots.push_back(max_rows);
  return knots;
}

struct Point {
  int rows = 0;
  double keys = 0;
  double ns = 0;
};

/// One point for measurements of the same batch, their median: now and then one was disturbed.
std::vector<Point> medians(std::span<const BatchCost> measured) {
  std::vector<BatchCost> sorted(measured.begin(), measured.end());
  std::sort(sorted.begin(), sorted.end(), [](const BatchCost& a, const BatchCost& b) {
    return std::tuple(a.rows, a.keys, a.took) < std::tuple(b.rows, b.keys, b.took);
  });
  std::vector<Point> points;
  for (std::size_t i = 0, end = 0; i < sorted.size(); i = end) {
    while (end < sorted.size() && sorted[end].rows == sorted[i].rows &&
           sorted[end].keys == sorted[i].keys)
      ++end;
    const BatchCost& median = sorted[i + (end - 1 - i) / 2];
    points.push_back(
        {median.rows, static_cast<double>(median.keys), static_cast<double>(median.took)});
  }
  return points;
}

/// The slope over keys, least squares over points of as many rows.
double slope_of_keys(const std::vector<Point>& points) {
  double products = 0, squares = 0;
  for (const Point& a : points)
    for (const Point& b : points)
      if (a.rows == b.rows && a.keys < b.keys) {
        products += (b.keys - a.keys) * (b.ns - a.ns);
        squares += (b.keys - a.keys) * (b.keys - a.keys);
      }
  return squares > 0 ? std::max(0.0, products / squares) : 0;
}

}  // namespace

CostModel::CostModel(int max_rows, std::span<const BatchCost> measured)
    : knots_(make_knots(max_rows)), table_(knots_.size(), 0.0), own_(knots_.size(), 1.0) {
  if (measured.empty()) return;
  const std::vector<Point> points = medians(measured);
  const double key_ns = slope_of_keys(points);
  // Rows alone; more of them never cost less: what says so is noise, and would be extrapolated.
  std::vector<Point> line;
  for (std::size_t i = 0, end = 0; i < points.size(); i = end) {
    double sum = 0;
    for (end = i; end < points.size() && points[end].rows == points[i].rows; ++end)
      sum += points[end].ns - key_ns * points[end].keys;
    const double ns = std::max(1.0, sum / static_cast<double>(end - i));
    line.push_back({points[i].rows, 0, line.empty() ? ns : std::max(ns, line.back().ns)});
  }
  // Below the first its own time; where it is the only one, in proportion.
  line.insert(line.begin(), {0, 0, line.size() > 1 ? line.front().ns : 0});
  for (std::size_t k = 0; k < knots_.size(); ++k) {
    std::size_t i = 1;
    while (i + 1 < line.size() && line[i].rows < knots_[k]) ++i;
    const Point &a = line[i - 1], &b = line[i];
    table_[k] = a.ns + (b.ns - a.ns) * (knots_[k] - a.rows) / (b.rows - a.rows);
  }
  for (const Point& p : points)
    keys_per_row_ += p.keys / p.rows / static_cast<double>(points.size());
  begin(key_ns, kStartMargin);
}

void CostModel::begin(double key_ns, double margin) {
  // Where keys were not seen to cost anything they may turn out to, of the order of the rest.
  key_unit_ = key_ns > 0 ? key_ns : table_.front() / std::max(1.0, keys_per_row_);
  prior_ = parameters_ = {0, 1, key_ns > 0 ? 1.0 : 0.0};
  took_ns_ = typical_ns_ = kStartNs;
  margin_ = margin;
  lowest_ = margin * table_.front();
  known_ = true;
}

CostModel::Place CostModel::place(int rows) const {
  const int top = knots_.back();
  if (rows >= top) return {knots_.size() - 1, 0};
  if (rows <= kDense) return {static_cast<std::size_t>(std::max(rows, 1) - 1), 0};
  const int octave = std::bit_width(static_cast<unsigned>(rows)) - 1;
  const int first = std::bit_width(static_cast<unsigned>(kDense)) - 1;
  const int width = (1 << octave) / kPerOctave;
  const int sub = (rows - (1 << octave)) / width;
  const int knot = kDense - 1 + (octave - first) * kPerOctave + sub;
  const auto index = static_cast<std::size_t>(knot);
  const int low = knots_[index], high = knots_[index + 1];
  return {index, static_cast<double>(rows - low) / (high - low)};
}

double CostModel::at(const std::vector<double>& knots, int rows) const {
  const Place p = place(rows);
  if (p.weight == 0) return knots[p.knot];
  return knots[p.knot] + (knots[p.knot + 1] - knots[p.knot]) * p.weight;
}

CostModel::Terms CostModel::terms(int rows, double keys) const {
  return {table_.front(), at(table_, rows), key_unit_ * keys};
}

double CostModel::typical(int rows, double keys) const {
  const Terms x = terms(rows, keys);
  return at(own_, rows) * std::inner_product(x.begin(), x.end(), parameters_.begin(), 0.0);
}

TimeNs CostModel::predict(int rows, std::int64_t keys) const {
  return static_cast<TimeNs>(margin_ * typical(rows, static_cast<double>(keys)));
}

void CostModel::observe(const BatchCost& batch) {
  const auto keys = static_cast<double>(batch.keys);
  const auto took = static_cast<double>(std::max<TimeNs>(batch.took, 1));
  if (!known_) {
    keys_per_row_ = keys / batch.rows;
    for (std::size_t k = 0; k < knots_.size(); ++k) table_[k] = took * knots_[k] / batch.rows;
    begin(0, 1);
    return;
  }
  keys_per_row_ += (keys / batch.rows - keys_per_row_) * kKeysMemory;
  const double usual = typical(batch.rows, keys);
  const double kept = std::max(0.0, 1 - usual / kMemoryNs);
  took_ns_ = took_ns_ * kept + took;
  typical_ns_ = typical_ns_ * kept + usual;
  const double predicted = margin_ * usual;
  learn(batch.rows, keys, std::min(took, predicted));
  margin_ *= 1 + kMarginStep * (took > predicted ? kQuantile : kQuantile - 1);
  lowest_ = std::min(lowest_, margin_ * typical(1, 0));
}

void CostModel::learn(int rows, double keys, double ns) {
  // In shares of what was measured: a large batch counts no more than a small one.
  Terms x = terms(rows, keys);
  const double measured = x[1] + prior_[2] * x[2];
  for (double& term : x) term /= measured;
  for (std::size_t i = 0; i < kTerms; ++i) {
    for (std::size_t j = 0; j < kTerms; ++j)
      products_[i][j] += x[i] * x[j] - products_[i][j] / kMemory;
    targets_[i] += x[i] * ns / measured - targets_[i] / kMemory;
  }
  // Coordinate descent, which keeps each within its bounds.
  for (int sweep = 0; sweep < kSweeps; ++sweep)
    for (std::size_t i = 0; i < kTerms; ++i) {
      double rest = targets_[i] + kPriorWeight * prior_[i];
      for (std::size_t j = 0; j < kTerms; ++j)
        if (j != i) rest -= products_[i][j] * parameters_[j];
      parameters_[i] = std::max(kLeast[i], rest / (products_[i][i] + kPriorWeight));
    }
  const double off = std::clamp(ns / typical(rows, keys) - 1, -1.0, 1.0);
  const Place p = place(rows);
  own_[p.knot] *= 1 + kKnotStep * (1 - p.weight) * off;
  if (p.weight > 0) own_[p.knot + 1] *= 1 + kKnotStep * p.weight * off;
}

void CostModel::doubt() {
  const double sunk = margin_ * (1 - kDoubtStep);
  if (sunk * typical(1, 0) >= lowest_) margin_ = sunk;
}

double CostModel::rows_hz(int max_rows, TimeNs longest) const {
  const double alone = typical(1, keys_per_row_);
  double best = alone;
  int formed = 1;
  for (const int rows : std::span(knots_).subspan(1)) {
    const double usual = typical(rows, rows * keys_per_row_);
    if (rows > max_rows || margin_ * usual > static_cast<double>(longest) ||
        !joins((usual - best) / (rows - formed), alone))
      break;
    best = usual;
    formed = rows;
  }
  const double hz = formed * 1e9 / std::max(1.0, best);
  return took_ns_ > 0 ? hz * typical_ns_ / took_ns_ : hz;
}

}  // namespace cortex
