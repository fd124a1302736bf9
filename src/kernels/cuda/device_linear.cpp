#include "kernels/cuda/device_linear.h"

#include <cuda_fp8.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/launch.h"

namespace cortex::cuda {
namespace {

constexpr float kMostE4m3 = 448;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

LinearForm form_of(const LinearTensor& linear, bool fp8) {
  const DType dtype = linear.weight.dtype();
  if (dtype == DType::i8) return LinearForm::i8;
  if (fp8 && linear.any_order) return linear.narrow ? LinearForm::e4m3 : LinearForm::bf16;
  return dtype == DType::f32 ? LinearForm::f32 : LinearForm::bf16;
}

Buffer to_device(const void* host, std::size_t bytes) {
  Buffer buffer = device_memory(bytes);
  check(cudaMemcpy(buffer.as<void>(), host, bytes, cudaMemcpyHostToDevice), "cudaMemcpy");
  return buffer;
}

}  // namespace

DeviceLinear::DeviceLinear(const LinearTensor& linear, bool fp8)
    : LinearWeight(linear.weight.size(0), linear.weight.size(1)),
      form_(form_of(linear, fp8)),
      any_order_(linear.any_order) {
  if (form_ == LinearForm::f32) {
    put(linear.weight, 4);
  } else if (form_ == LinearForm::i8) {
    put(linear.weight, 1);
    put_scale(*linear.scale);
  } else {
    put_floats(linear);
  }
}

void DeviceLinear::put_floats(const LinearTensor& linear) {
  Tensor rows = to_float(linear.weight);
  // int8 cannot take the gain: it is a factor of inputs, the scale one of outputs.
  if (linear.gain) {
    for (std::int64_t i = 0; i < rows.count(); ++i)
      rows.f32()[static_cast<std::size_t>(i)] *=
          linear.gain->f32()[static_cast<std::size_t>(i % in())];
    folds_gain_ = true;
  }
  if (form_ == LinearForm::bf16)
    put(to_bfloat16(rows), 2);
  else
    put_e4m3(rows);
}

void DeviceLinear::put(const Tensor& rows, std::int64_t element) {
  stride_ = form_ == LinearForm::f32 ? in() : round_up(in(), kLinearBytes / element);
  const auto row_bytes = static_cast<std::size_t>(stride_ * element);
  std::vector<std::byte> host(static_cast<std::size_t>(round_up(out(), 8)) * row_bytes);
  for (std::int64_t o = 0; o < out(); ++o)
    std::memcpy(host.data() + static_cast<std::size_t>(o) * row_bytes,
                rows.data() + o * in() * element, static_cast<std::size_t>(in() * element));
  data_ = to_device(host.data(), host.size());
}

void DeviceLinear::put_e4m3(const Tensor& rows) {
  stride_ = in();
  std::vector<std::uint8_t> host(static_cast<std::size_t>(out() * in()));
  Tensor scale({out()});
  double bound = 0;
  for (std::int64_t o = 0; o < out(); ++o) {
    const float* const row = rows.f32().data() + o * in();
    float top = 0;
    double square = 0;
    for (std::int64_t i = 0; i < in(); ++i) {
      top = std::max(top, std::abs(row[i]));
      square += static_cast<double>(row[i]) * row[i];
    }
    // A normed row's length is the root of its columns.
    bound = std::max(bound, std::sqrt(square * static_cast<double>(in())));
    const float step = top > 0 ? top / kMostE4m3 : 1.0F;
    scale.f32()[static_cast<std::size_t>(o)] = step;
    for (std::int64_t i = 0; i < in(); ++i)
      host[static_cast<std::size_t>(o * in() + i)] =
          __nv_cvt_float_to_fp8(row[i] / step, __NV_SATFINITE, __NV_E4M3);
  }
  if (bound > 0)
    gelu_scale_ = static_cast<float>(std::exp2(std::floor(std::log2(kMostE4m3 / bound))));
  data_ = to_device(host.data(), host.size());
  put_scale(scale);
}

void DeviceLinear::put_scale(const Tensor& scale) {
  scale_ = to_device(scale.data(), scale.bytes());
}

const void* dense_bf16(const LinearWeight& weight, std::int64_t out, std::int64_t in, bool normed,
                       bool any_order) {
  const auto& w = static_cast<const DeviceLinear&>(weight);
  const bool fits = w.form() == LinearForm::bf16 && w.out() == out && w.in() == in &&
                    w.stride() == in && w.folds_gain() == normed && w.any_order() == any_order;
  return fits ? w.data() : nullptr;
}

bool dense_blocks(std::span<const TransformerBlock> blocks, std::int64_t dim, std::int64_t hidden,
                  bool any_order, const void** to) {
  const auto take = [&](const LinearWeight* weight, std::int64_t out, std::int64_t in,
                        bool normed) {
    return (*to++ = dense_bf16(*weight, out, in, normed, any_order)) != nullptr;
  };
  for (const TransformerBlock& b : blocks) {
    for (const NormArgs& norm : {b.norm_attn, b.norm_mlp})
      if (norm.kind != NormArgs::Kind::rms || norm.eps != blocks[0].norm_attn.eps) return false;
    if (!take(b.qkv, 3 * dim, dim, true) || !take(b.out, dim, dim, false) ||
        !take(b.up, hidden, dim, true) || !take(b.down, dim, hidden, false))
      return false;
  }
  return true;
}

}  // namespace cortex::cuda
