#include "quant/quantize_linear.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace cortex {
namespace {

constexpr double kPercentile = 0.99;
// Ranges that the search tries, as parts of the row's largest magnitude.
constexpr int kNarrowestPercent = 30;

float largest_of(std::span<const float> row) {
  float largest = 0;
  for (const float w : row) largest = std::max(largest, std::abs(w));
  return largest;
}

/// Linearly interpolated between the sorted magnitudes.
float percentile_of(std::span<const float> row) {
  std::vector<float> sorted;
  for (const float w : row) sorted.push_back(std::abs(w));
  std::sort(sorted.begin(), sorted.end());
  const double at = kPercentile * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(at);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  const double part = at - static_cast<double>(below);
  return static_cast<float>((1 - part) * sorted[below] + part * sorted[above]);
}

float scale_of(float range) {
  // A range so small that its steps vanish is as good as zero.
  const float scale = range / kInt8Max;
  return scale < std::numeric_limits<float>::min() ? 1.0F : scale;
}

float rounded(float w, float scale) {
  return std::clamp(std::nearbyint(w / scale), -static_cast<float>(kInt8Max),
                    static_cast<float>(kInt8Max));
}

double squared_error(std::span<const float> row, float scale) {
  double sum = 0;
  for (const float w : row) {
    const double lost = static_cast<double>(w) - static_cast<double>(scale) * rounded(w, scale);
    sum += lost * lost;
  }
  return sum;
}

float best_scale(std::span<const float> row) {
  const float largest = largest_of(row);
  float best = scale_of(largest);
  double least = squared_error(row, best);
  for (int percent = 99; percent >= kNarrowestPercent; --percent) {
    const float scale = scale_of(0.01F * static_cast<float>(percent) * largest);
    const double error = squared_error(row, scale);
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
}

float row_scale(std::span<const float> row, Clipping clipping) {
  switch (clipping) {
    case Clipping::absmax:
      return scale_of(largest_of(row));
    case Clipping::percentile:
      // Where nearly all of a row is 0 its percentile says nothing of the rest.
      return percentile_of(row) > 0 ? scale_of(percentile_of(row)) : scale_of(largest_of(row));
    case Clipping::mse:
      return best_scale(row);
  }
  return 1;
}

}  // namespace

const char* to_string(Clipping clipping) {
  switch (clipping) {
    case Clipping::absmax:
      return "absmax";
    case Clipping::percentile:
      return "percentile";
    case Clipping::mse:
      return "mse";
  }
  return "";
}

QuantizedLinear quantize_rows(const Tensor& weight, Clipping clipping) {
  QuantizedLinear q{Tensor(weight.shape(), DType::i8), Tensor({weight.size(0)})};
  const auto columns = static_cast<std::size_t>(weight.size(1));
  for (std::size_t o = 0; o < static_cast<std::size_t>(weight.size(0)); ++o) {
    const auto row = weight.f32().subspan(o * columns, columns);
    const float scale = row_scale(row, clipping);
    q.scale.f32()[o] = scale;
    for (std::size_t i = 0; i < columns; ++i)
      q.weight.data()[o * columns + i] =
          static_cast<std::byte>(static_cast<std::int8_t>(rounded(row[i], scale)));
  }
  return q;
}

float quantize_row(std::span<const float> x, std::int16_t* q) {
  const float largest = largest_of(x);
  const float scale = largest / kInt8Max;
  if (scale < std::numeric_limits<float>::min()) {
    std::fill_n(q, x.size(), std::int16_t{0});
    return 0;
  }
  const float inverse = kInt8Max / largest;
  for (std::size_t i = 0; i < x.size(); ++i)
    q[i] = static_cast<std::int16_t>(std::nearbyint(x[i] * inverse));
  return scale;
}

double relative_error(std::span<const float> a, std::span<const float> b) {
  double lost = 0;
  double whole = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = static_cast<double>(a[i]) - b[i];
    lost += d * d;
    whole += static_cast<double>(b[i]) * b[i];
  }
  return lost == 0 ? 0 : std::sqrt(lost / whole);
}

double relative_error(const Tensor& a, const Tensor& b) { return relative_error(a.f32(), b.f32()); }

}  // namespace cortex
