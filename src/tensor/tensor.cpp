#include "tensor/tensor.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace cortex {
namespace {
constexpr std::size_t kAlignment = 64;
}

std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return 4;
    case DType::bf16:
      return 2;
    case DType::i8:
      return 1;
  }
  return 0;
}

const char* to_string(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "F32";
    case DType::bf16:
      return "BF16";
    case DType::i8:
      return "I8";
  }
  return "";
}

std::int64_t element_count(const Shape& shape) {
  std::int64_t n = 1;
  for (const std::int64_t d : shape) n *= d;
  return n;
}

std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i) text += ", ";
    text += std::to_string(shape[i]);
  }
  return text + "]";
}

void Tensor::Free::operator()(std::byte* p) const {
  ::operator delete[](p, std::align_val_t{kAlignment});
}

Tensor::Tensor(Shape shape, DType dtype) : shape_(std::move(shape)), dtype_(dtype) {
  const std::size_t n = bytes();
  data_.reset(
      static_cast<std::byte*>(::operator new[](n ? n : kAlignment, std::align_val_t{kAlignment})));
  std::memset(data_.get(), 0, n);
}

Tensor Tensor::clone() const {
  if (empty()) return {};
  Tensor copy(shape_, dtype_);
  std::memcpy(copy.data(), data(), bytes());
  return copy;
}

Tensor to_float(const Tensor& tensor, const Tensor* scale) {
  Tensor wide(tensor.shape());
  const auto out = wide.f32();
  switch (tensor.dtype()) {
    case DType::f32:
      std::memcpy(out.data(), tensor.data(), tensor.bytes());
      break;
    case DType::bf16:
      for (std::size_t i = 0; i < out.size(); ++i) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, tensor.data() + i * sizeof bits, sizeof bits);
        out[i] = from_bfloat16(bits);
      }
      break;
    case DType::i8: {
      const std::size_t columns =
          out.size() / static_cast<std::size_t>(std::max<std::int64_t>(1, tensor.size(0)));
      for (std::size_t i = 0; i < out.size(); ++i)
        out[i] = static_cast<float>(static_cast<std::int8_t>(tensor.data()[i])) *
                 (scale ? scale->f32()[i / columns] : 1.0f);
      break;
    }
  }
  return wide;
}

Tensor to_bfloat16(const Tensor& tensor) {
  Tensor narrow(tensor.shape(), DType::bf16);
  const auto in = tensor.f32();
  for (std::size_t i = 0; i < in.size(); ++i) {
    std::uint32_t word = 0;
    std::memcpy(&word, &in[i], sizeof word);
    const auto bits = static_cast<std::uint16_t>((word + 0x7fff + (word >> 16 & 1)) >> 16);
    std::memcpy(narrow.data() + i * sizeof bits, &bits, sizeof bits);
  }
  return narrow;
}

}  // namespace cortex
