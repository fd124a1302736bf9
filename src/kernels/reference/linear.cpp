#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/reference/reference_ops.h"

namespace cortex {
namespace {

constexpr int kLanes = 16;
// Rows that share one pass over the weights. A matter of cache alone: each element is one `dot`.
constexpr std::int64_t kRowBlock = 8;

class ReferenceLinear final : public LinearWeight {
 public:
  explicit ReferenceLinear(const LinearTensor& linear)
      : LinearWeight(linear.weight.size(0), linear.weight.size(1)),
        w_(to_float(linear.weight, linear.scale)) {}
  std::size_t bytes() const override { return w_.bytes(); }
  const float* row(std::int64_t out) const { return w_.f32().data() + out * in(); }

 private:
  Tensor w_;
};

float gelu(float x) { return 0.5f * x * (1.0f + std::erf(x * 0.70710678118654752f)); }

void normalize_row(const NormArgs& norm, const float* x, std::int64_t n, float* out) {
  if (norm.kind == NormArgs::Kind::none) {
    std::memcpy(out, x, static_cast<std::size_t>(n) * sizeof(float));
    return;
  }
  double mean = 0;
  if (norm.kind == NormArgs::Kind::layer) {
    for (std::int64_t i = 0; i < n; ++i) mean += x[i];
    mean /= static_cast<double>(n);
  }
  double square = 0;
  for (std::int64_t i = 0; i < n; ++i) square += (x[i] - mean) * (x[i] - mean);
  const auto centre = static_cast<float>(mean);
  const auto rstd = static_cast<float>(1.0 / std::sqrt(square / static_cast<double>(n) + norm.eps));
  for (std::int64_t i = 0; i < n; ++i) {
    out[i] = (x[i] - centre) * rstd * norm.gain[i];
    if (norm.bias) out[i] += norm.bias[i];
  }
}

}  // namespace

float reference::dot(const float* a, const float* b, std::int64_t n) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += a[i + j] * b[i + j];
  for (int j = 0; i < n; ++i, ++j) lanes[j] += a[i] * b[i];
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int j = 0; j < width; ++j) lanes[j] += lanes[j + width];
  return lanes[0];
}

std::unique_ptr<LinearWeight> ReferenceOps::pack_linear(const LinearTensor& linear) {
  const std::size_t block = static_cast<std::size_t>(linear.weight.size(1) * kRowBlock);
  if (rows_.size() < block) rows_.resize(block);
  return std::make_unique<ReferenceLinear>(linear);
}

void ReferenceOps::norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                               const float* bias, Epilogue epilogue, MatrixView out) {
  const auto& w = static_cast<const ReferenceLinear&>(weight);
  const std::int64_t in = w.in();
  for (std::int64_t first = 0; first < x.rows; first += kRowBlock) {
    const std::int64_t rows = std::min(kRowBlock, x.rows - first);
    for (std::int64_t m = 0; m < rows; ++m)
      normalize_row(norm, x.data + (first + m) * x.stride, in, rows_.data() + m * in);
    for (std::int64_t o = 0; o < w.out(); ++o) {
      for (std::int64_t m = 0; m < rows; ++m) {
        float y = reference::dot(rows_.data() + m * in, w.row(o), in);
        if (bias) y += bias[o];
        float& to = out.data[(first + m) * out.stride + o];
        switch (epilogue) {
          case Epilogue::store:
            to = y;
            break;
          case Epilogue::gelu:
            to = gelu(y);
            break;
          case Epilogue::add:
            to += y;
            break;
        }
      }
    }
  }
}

void ReferenceOps::normalize(const NormArgs& norm, MatrixView x, MatrixView out) {
  for (std::int64_t m = 0; m < x.rows; ++m)
    normalize_row(norm, x.data + m * x.stride, x.cols, out.data + m * out.stride);
}

void ReferenceOps::mean_rows(MatrixView x, std::int64_t rows, MatrixView out) {
  for (std::int64_t i = 0; i < out.rows; ++i) {
    for (std::int64_t c = 0; c < x.cols; ++c) {
      double sum = 0;
      for (std::int64_t r = 0; r < rows; ++r) sum += x.data[(i * rows + r) * x.stride + c];
      out.data[i * out.stride + c] = static_cast<float>(sum / static_cast<double>(rows));
    }
  }
}

}  // namespace cortex
