#include "kernels/reference/reference_ops.h"

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

void ReferenceOps::gather_tokens(const TokenArgs& a) {
  for (std::int64_t e = 0; e < a.events; ++e) {
    const std::int32_t v = a.value[e] < a.value_buckets ? a.value[e] : a.value_buckets - 1;
    const float* neuron = a.neuron_table + a.neuron[e] * a.out.cols;
    const float* time = a.time_table + a.bin[e] * a.out.cols;
    const float* value = a.value_table + v * a.out.cols;
    float* out = a.out.data + e * a.out.stride;
    for (std::int64_t d = 0; d < a.out.cols; ++d) out[d] = neuron[d] + time[d] + value[d];
  }
}

std::unique_ptr<Ops> make_reference_ops() { return std::make_unique<ReferenceOps>(); }

}  // namespace cortex
