// Included by kernels_*.cpp inside the namespace of one instruction set; each part builds on those
// before it.

// clang-format off
#include "kernels/cpu/math_impl.h"
#include "kernels/cpu/gemm_impl.h"
#include "kernels/cpu/attention_impl.h"
#include "kernels/cpu/stream_impl.h"
// clang-format on

constexpr Kernels table(const char* name, bool bf16_dot) {
  return {name,           kLanes,
          bf16_dot,       format,
          prepare,        normalize,
          project_token,  gemm_scratch_bytes,
          gemm,           head_attention_scratch_bytes,
          head_attention, soften_columns,
          pool_columns,   additive_bag,
          stream_cross,   paged};
}
