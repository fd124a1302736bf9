#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "kernels/ops.h"
#include "tensor/tensor.h"

/// A linear's weight in int8, a scale an output row, symmetric:
///
///     const QuantizedLinear q = quantize_rows(weight, Clipping::mse);
///     const double lost = relative_error(to_float(q.weight, &q.scale), weight);
namespace cortex {

inline constexpr int kInt8Max = 127;

/// What a row's range is clipped to before it is cut into 127 steps a side. A narrower range makes
/// finer steps and loses what lies beyond it.
enum class Clipping {
  absmax,      ///< the largest magnitude of the row: nothing is clipped
  percentile,  ///< the 99th percentile of its magnitudes
  mse          ///< the range with the smallest squared error of the row
};
inline constexpr std::array kClippings = {Clipping::absmax, Clipping::percentile, Clipping::mse};
const char* to_string(Clipping clipping);

struct QuantizedLinear {
  Tensor weight;  ///< [out, in] i8, -127 to 127
  Tensor scale;   ///< [out] f32, above 0

  LinearTensor view() const { return {weight, &scale}; }
};

/// `weight` [out, in] f32. Rounds to nearest, ties to even; a row of zeros gets scale 1.
QuantizedLinear quantize_rows(const Tensor& weight, Clipping clipping);

/// The activations of one row as an int8 linear takes them: q = round(x * 127 / max|x|), ties to
/// even. Returns the row's scale, max|x| / 127; 0 where every x is 0. `q` [x.size()].
float quantize_row(std::span<const float> x, std::int16_t* q);

/// Square root of the sum of (a - b)^2 over that of b^2; 0 where both are 0.
double relative_error(std::span<const float> a, std::span<const float> b);
double relative_error(const Tensor& a, const Tensor& b);

}  // namespace cortex
