#include "kernels/reference/reference_ops.h"

#include <cmath>
#include <cstring>
#include <new>

namespace cortex {
namespace {
constexpr std::align_val_t kAlignment{64};
}

Buffer ReferenceOps::allocate(std::size_t bytes) {
  return {::operator new(bytes ? bytes : 1, kAlignment), bytes,
          [](void* p) { ::operator delete(p, kAlignment); }};
}

void ReferenceOps::clear(const Buffer& buffer) {
  std::memset(buffer.as<void>(), 0, buffer.bytes());
}

void ReferenceOps::upload(const Buffer& to, const void* host, std::size_t bytes) {
  if (bytes) std::memcpy(to.as<void>(), host, bytes);
}

void ReferenceOps::download(void* host, const float* from, std::size_t bytes) {
  if (bytes) std::memcpy(host, from, bytes);
}

void ReferenceOps::reserve_scores(std::int64_t keys) {
  if (static_cast<std::int64_t>(scores_.size()) < keys) scores_.resize(keys);
}

void ReferenceOps::project_tokens(const TokenArgs& t, const TokenProjection& p, MatrixView out) {
  const auto row = [&](const void* table, std::int64_t index, std::int64_t column) {
    const std::int64_t at = index * p.width + column;
    return p.dtype == DType::f32 ? static_cast<const float*>(table)[at]
                                 : from_bfloat16(static_cast<const std::uint16_t*>(table)[at]);
  };
  const bool layer = p.norm == NormArgs::Kind::layer;
  for (std::int64_t e = 0; e < t.events; ++e) {
    const std::int32_t v = t.value[e] < t.value_buckets ? t.value[e] : t.value_buckets - 1;
    const auto token = [&](std::int64_t d) {
      return static_cast<double>(
                 t.neuron_table[static_cast<std::int64_t>(t.neuron[e]) * t.dim + d]) +
             t.time_table[static_cast<std::int64_t>(t.bin[e]) * t.dim + d] +
             t.value_table[static_cast<std::int64_t>(v) * t.dim + d];
    };
    double mean = 0, square = 0;
    if (layer)
      for (std::int64_t d = 0; d < t.dim; ++d) mean += token(d) / t.dim;
    for (std::int64_t d = 0; d < t.dim; ++d)
      square += (token(d) - mean) * (token(d) - mean) / t.dim;
    const auto rstd = static_cast<float>(1 / std::sqrt(square + p.eps));
    for (std::int64_t c = 0; c < p.width; ++c) {
      float y = row(p.neuron_table, t.neuron[e], c) + row(p.time_table, t.bin[e], c) +
                row(p.value_table, v, c);
      if (layer) y -= static_cast<float>(mean) * p.mean_factor[c];
      y *= rstd;
      out.data[e * out.stride + c] = layer ? y + p.bias[c] : y;
    }
  }
}

std::unique_ptr<Ops> make_reference_ops() { return std::make_unique<ReferenceOps>(); }

}  // namespace cortex
