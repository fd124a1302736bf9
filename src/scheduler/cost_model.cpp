#include "scheduler/cost_model.h"

#include <algorithm>
#include <bit>
#include <tuple>

namespace cortex {
namespace {

// Every number of rows up to this has a knot; from there on four each time it doubles.
constexpr int kDense = 16;
constexpr int kPerOctave = 4;

// Shares by which a batch above its prediction moves scale, its knots and key_ns.
constexpr double kScaleStep = 0.03;
constexpr double kKnotStep = 0.01;
constexpr double kKeyStep = 0.02;
// A part that is predicted to be nothing still learns as if it were this share of the whole.
constexpr double kLeastShare = 0.02;
// What was measured is typical, what is predicted an upper quantile.
constexpr double kStartMargin = 1.1;
constexpr double kDoubtStep = 0.02;
constexpr double kKeysMemory = 1.0 / 64;
// Averages reach back over so much predicted time; the measurements count as this much of it.
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
    points.push_back({sorted[i].rows, static_cast<double>(sorted[i].keys),
                      static_cast<double>(sorted[i + (end - 1 - i) / 2].took)});
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
    : knots_(make_knots(max_rows)), rows_ns_(knots_.size(), 0.0) {
  if (measured.empty()) return;
  const std::vector<Point> points = medians(measured);
  key_ns_ = slope_of_keys(points);
  // Rows alone; more of them never cost less: what says so is noise, and would be extrapolated.
  std::vector<Point> line;
  for (std::size_t i = 0, end = 0; i < points.size(); i = end) {
    double sum = 0;
    for (end = i; end < points.size() && points[end].rows == points[i].rows; ++end)
      sum += points[end].ns - key_ns_ * points[end].keys;
    const double ns = std::max(1.0, sum / static_cast<double>(end - i));
    line.push_back({points[i].rows, 0, line.empty() ? ns : std::max(ns, line.back().ns)});
  }
  // Below the first its own time; where it is the only one, in proportion.
  line.insert(line.begin(), {0, 0, line.size() > 1 ? line.front().ns : 0});
  for (std::size_t k = 0; k < knots_.size(); ++k) {
    std::size_t i = 1;
    while (i + 1 < line.size() && line[i].rows < knots_[k]) ++i;
    const Point &a = line[i - 1], &b = line[i];
    rows_ns_[k] = a.ns + (b.ns - a.ns) * (knots_[k] - a.rows) / (b.rows - a.rows);
  }
  for (const Point& p : points)
    keys_per_row_ += p.keys / p.rows / static_cast<double>(points.size());
  scale_ = kStartMargin;
  lowest_ = scale_ * rows_ns_.front();
  took_ns_ = kStartNs / kStartMargin;
  predicted_ns_ = kStartNs;
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
  const auto knot = static_cast<std::size_t>(kDense - 1 + (octave - first) * kPerOctave + sub);
  const int low = knots_[knot], high = knots_[knot + 1];
  return {knot, static_cast<double>(rows - low) / (high - low)};
}

double CostModel::rows_ns(int rows) const {
  const Place p = place(rows);
  if (p.weight == 0) return rows_ns_[p.knot];
  return rows_ns_[p.knot] + (rows_ns_[p.knot + 1] - rows_ns_[p.knot]) * p.weight;
}

TimeNs CostModel::predict(int rows, std::int64_t keys) const {
  return static_cast<TimeNs>(scale_ * (rows_ns(rows) + key_ns_ * static_cast<double>(keys)));
}

void CostModel::observe(const BatchCost& batch) {
  const auto keys = static_cast<double>(batch.keys);
  if (!known_) {
    known_ = true;
    keys_per_row_ = keys / batch.rows;
    for (std::size_t k = 0; k < knots_.size(); ++k)
      rows_ns_[k] = static_cast<double>(std::max<TimeNs>(batch.took, 1)) * knots_[k] / batch.rows;
    lowest_ = rows_ns_.front();
    return;
  }
  keys_per_row_ += (keys / batch.rows - keys_per_row_) * kKeysMemory;
  const double in_rows = rows_ns(batch.rows), in_keys = key_ns_ * keys, whole = in_rows + in_keys;
  const auto took = static_cast<double>(std::max<TimeNs>(batch.took, 1));
  const double predicted = std::max(1.0, scale_ * whole);
  const double kept = std::max(0.0, 1 - predicted / kMemoryNs);
  took_ns_ = took_ns_ * kept + took;
  predicted_ns_ = predicted_ns_ * kept + predicted;
  const bool above = took > predicted;
  const double move = above ? kQuantile : kQuantile - 1;
  const Place p = place(batch.rows);
  rows_ns_[p.knot] *= 1 + kKnotStep * move * (1 - p.weight) * in_rows / whole;
  if (p.weight > 0) rows_ns_[p.knot + 1] *= 1 + kKnotStep * move * p.weight * in_rows / whole;
  if (keys > 0) {
    const double share = std::max(in_keys / whole, kLeastShare);
    key_ns_ = std::max(0.0, key_ns_ + kKeyStep * move * share * whole / keys);
  }
  scale_ *= 1 + kScaleStep * move;
  lowest_ = std::min(lowest_, scale_ * rows_ns_.front());
}

void CostModel::doubt() {
  const double sunk = scale_ * (1 - kDoubtStep);
  if (sunk * rows_ns_.front() >= lowest_) scale_ = sunk;
}

double CostModel::rows_hz(int max_rows, TimeNs longest) const {
  double hz = 0;
  for (const int rows : knots_) {
    if (rows > max_rows) break;
    const TimeNs took = predict(rows, static_cast<std::int64_t>(rows * keys_per_row_));
    if (rows > 1 && took > longest) break;
    hz = rows * 1e9 / static_cast<double>(std::max<TimeNs>(took, 1));
  }
  return took_ns_ > 0 ? hz * predicted_ns_ / took_ns_ : hz;
}

}  // namespace cortex
