#pragma once

#include "kernels/cuda/memory.h"
#include "kernels/ops.h"

namespace cortex::cuda {

/// What a linear multiplies in.
enum class LinearForm { f32, bf16, i8, e4m3 };

/// A linear's weight in device memory: rows padded with zeros to whole chunks, and to a multiple of
/// 8 rows.
class DeviceLinear final : public LinearWeight {
 public:
  /// `fp8`: a float weight whose linear may be in 8-bit floats becomes e4m3, others that need not
  /// keep an order bf16.
  DeviceLinear(const LinearTensor& linear, bool fp8);

  std::size_t bytes() const override { return data_.bytes() + scale_.bytes(); }
  LinearForm form() const { return form_; }
  const void* data() const { return data_.as<void>(); }
  std::int64_t stride() const { return stride_; }  ///< elements
  const float* scale() const { return scale_.f32(); }
  bool folds_gain() const { return folds_gain_; }
  bool any_order() const { return any_order_; }
  /// e4m3: the largest power of two that keeps GELU of a result in range whatever its normed input.
  float gelu_scale() const { return gelu_scale_; }

 private:
  void put(const Tensor& rows, std::int64_t element);
  void put_floats(const LinearTensor& linear);
  void put_e4m3(const Tensor& rows);
  void put_scale(const Tensor& scale);

  LinearForm form_;
  bool any_order_;
  bool folds_gain_ = false;
  std::int64_t stride_ = 0;
  float gelu_scale_ = 1;
  Buffer data_;
  Buffer scale_;
};

/// The rows of a bf16 weight [out, in] without padding whose gain, if it is normed, is in it, and
/// whose sums need or need not keep an order; or null.
const void* dense_bf16(const LinearWeight& weight, std::int64_t out, std::int64_t in, bool normed,
                       bool any_order);
/// The same of qkv, out, up and down of every block, to `to`. False: one of them is none, or not
/// all norms are RMSNorm with the first one's epsilon.
bool dense_blocks(std::span<const TransformerBlock> blocks, std::int64_t dim, std::int64_t hidden,
                  bool any_order, const void** to);

}  // namespace cortex::cuda
