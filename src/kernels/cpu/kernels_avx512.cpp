#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd_avx512.h"

namespace cortex::cpu::avx512 {
namespace {

#include "kernels/cpu/math_impl.h"
// What follows builds on it.
#include "kernels/cpu/gemm_impl.h"
// And the attentions on the tiles.
#include "kernels/cpu/attention_impl.h"
// Pages last.
#include "kernels/cpu/stream_impl.h"

}  // namespace

constexpr Kernels kKernels{"avx512",
                           format,
                           prepare,
                           normalize,
                           gemm_scratch_bytes,
                           gemm,
                           head_attention_scratch_bytes,
                           head_attention,
                           stream_cross,
                           paged};

}  // namespace cortex::cpu::avx512

namespace cortex::cpu {
const Kernels& avx512_kernels() { return avx512::kKernels; }
}  // namespace cortex::cpu
