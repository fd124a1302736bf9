#define CORTEX_ISA avx512_bf16
#define CORTEX_NATIVE_BF16 1
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd_avx512.h"

namespace cortex::cpu::avx512_bf16 {
namespace {

#include "kernels/cpu/math_impl.h"
// What follows builds on it.
#include "kernels/cpu/gemm_impl.h"
// And the attentions on the tiles.
#include "kernels/cpu/attention_impl.h"
// Pages last.
#include "kernels/cpu/stream_impl.h"

}  // namespace

constexpr Kernels kKernels{"avx512_bf16",  true,
                           format,         prepare,
                           normalize,      gemm_scratch_bytes,
                           gemm,           head_attention_scratch_bytes,
                           head_attention, soften_columns,
                           pool_columns,   stream_cross,
                           paged};

}  // namespace cortex::cpu::avx512_bf16

namespace cortex::cpu {
const Kernels& avx512_bf16_kernels() { return avx512_bf16::kKernels; }
}  // namespace cortex::cpu
