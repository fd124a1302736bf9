#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace cortex {

enum class DType : std::uint8_t { f32, bf16, i8 };

std::size_t size_of(DType dtype);
/// As safetensors names it: "F32", "BF16", "I8".
const char* to_string(DType dtype);

using Shape = std::vector<std::int64_t>;
std::int64_t element_count(const Shape& shape);
/// "[4, 128]"
std::string to_string(const Shape& shape);

/// A contiguous row-major tensor in host memory. Owns its storage, moves, and copies only by
/// `clone()`. Rows start on 64-byte boundaries where their length allows.
class Tensor {
 public:
  Tensor() = default;
  /// Zero-filled.
  explicit Tensor(Shape shape, DType dtype = DType::f32);
  Tensor(Tensor&&) = default;
  Tensor& operator=(Tensor&&) = default;
  Tensor clone() const;

  const Shape& shape() const { return shape_; }
  std::int64_t size(std::size_t dim) const { return shape_[dim]; }
  std::int64_t count() const { return element_count(shape_); }
  DType dtype() const { return dtype_; }
  bool empty() const { return !data_; }
  std::size_t bytes() const { return static_cast<std::size_t>(count()) * size_of(dtype_); }

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  std::span<float> f32() { return {reinterpret_cast<float*>(data_.get()), f32_count()}; }
  std::span<const float> f32() const {
    return {reinterpret_cast<const float*>(data_.get()), f32_count()};
  }

 private:
  struct Free {
    void operator()(std::byte* p) const;
  };
  std::size_t f32_count() const {
    return dtype_ == DType::f32 ? static_cast<std::size_t>(count()) : 0;
  }
  Shape shape_;
  DType dtype_ = DType::f32;
  std::unique_ptr<std::byte[], Free> data_;
};

inline float from_bfloat16(std::uint16_t bits) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}
/// The same values in float32; an i8 tensor [out, ..] times `scale` [out].
Tensor to_float(const Tensor& tensor, const Tensor* scale = nullptr);
/// Rounded to the nearest bf16, ties to even.
Tensor to_bfloat16(const Tensor& tensor);

}  // namespace cortex
