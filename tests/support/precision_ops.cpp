#include "support/precision_ops.h"

#include <cmath>
#include <cstring>

#include "quant/quantize_linear.h"

namespace cortex::testing {
namespace {

class PrecisionLinear final : public LinearWeight {
 public:
  PrecisionLinear(const LinearTensor& linear, Ops& base)
      : LinearWeight(linear.weight.size(0), linear.weight.size(1)), dtype_(linear.weight.dtype()) {
    if (dtype_ != DType::i8) {
      base_ = base.pack_linear({to_float(linear.weight)});
      return;
    }
    const auto n = static_cast<std::size_t>(linear.weight.count());
    integers_.resize(n);
    for (std::size_t i = 0; i < n; ++i)
      // NOLINTNEXTLINE(bugprone-signed-char-misuse): a number
      integers_[i] = static_cast<std::int8_t>(linear.weight.data()[i]);
    scale_.assign(linear.scale->f32().begin(), linear.scale->f32().end());
  }

  DType dtype() const { return dtype_; }
  std::size_t bytes() const override {
    return base_ ? base_->bytes()
                 : integers_.size() * sizeof(std::int16_t) + scale_.size() * sizeof(float);
  }
  const LinearWeight& base() const { return *base_; }
  const std::int16_t* row(std::int64_t o) const { return integers_.data() + o * in(); }
  float scale(std::int64_t o) const { return scale_[static_cast<std::size_t>(o)]; }

 private:
  DType dtype_;
  std::unique_ptr<LinearWeight> base_;
  std::vector<std::int16_t> integers_;  // as wide as the multiply that compilers vectorise
  std::vector<float> scale_;
};

std::int32_t dot(const std::int16_t* a, const std::int16_t* b, std::int64_t n) {
  std::int32_t sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<std::int32_t>(a[i]) * b[i];
  return sum;
}

float gelu(float x) { return 0.5F * x * (1.0F + std::erf(x * 0.70710678118654752F)); }

void round_to_bfloat16(float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    std::uint32_t word = 0;
    std::memcpy(&word, x + i, sizeof word);
    word = (word + 0x7fff + (word >> 16 & 1)) & 0xffff0000U;
    std::memcpy(x + i, &word, sizeof word);
  }
}

}  // namespace

std::unique_ptr<LinearWeight> PrecisionOps::pack_linear(const LinearTensor& linear) {
  return std::make_unique<PrecisionLinear>(linear, base_);
}

MatrixView PrecisionOps::normalized(const NormArgs& norm, MatrixView x) {
  const auto n = static_cast<std::size_t>(x.rows * x.cols);
  if (rows_.size() < n) rows_.resize(n);
  const MatrixView rows = matrix(rows_.data(), x.rows, x.cols);
  base_.normalize(norm, x, rows);
  return rows;
}

void PrecisionOps::norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                               const float* bias, Epilogue epilogue, MatrixView out) {
  const auto& w = static_cast<const PrecisionLinear&>(weight);
  if (w.dtype() == DType::f32) {
    base_.norm_linear(norm, x, w.base(), bias, epilogue, out);
    return;
  }
  const MatrixView rows = normalized(norm, x);
  if (w.dtype() == DType::bf16) {
    round_to_bfloat16(rows.data, rows.rows * rows.cols);
    base_.norm_linear({}, rows, w.base(), bias, epilogue, out);
    return;
  }
  if (quantized_.size() < static_cast<std::size_t>(w.in()))
    quantized_.resize(static_cast<std::size_t>(w.in()));
  for (std::int64_t m = 0; m < rows.rows; ++m) {
    const float row_scale = quantize_row(
        {rows.data + m * rows.stride, static_cast<std::size_t>(w.in())}, quantized_.data());
    for (std::int64_t o = 0; o < w.out(); ++o) {
      const std::int32_t sum = dot(quantized_.data(), w.row(o), w.in());
      float y = static_cast<float>(sum) * (w.scale(o) * row_scale);
      if (bias) y += bias[o];
      float& to = out.data[m * out.stride + o];
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

}  // namespace cortex::testing
