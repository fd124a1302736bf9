#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd_scalar.h"

namespace cortex::cpu::scalar {
namespace {

#include "kernels/cpu/math_impl.h"
// What follows builds on it.
#include "kernels/cpu/gemm_impl.h"
// And the attentions on the tiles.
#include "kernels/cpu/attention_impl.h"
// Pages last.
#include "kernels/cpu/stream_impl.h"

}  // namespace

constexpr Kernels kKernels{"scalar",
                           format,
                           prepare,
                           normalize,
                           gemm_scratch_bytes,
                           gemm,
                           head_attention_scratch_bytes,
                           head_attention,
                           stream_cross,
                           paged};

}  // namespace cortex::cpu::scalar

namespace cortex::cpu {
const Kernels& scalar_kernels() { return scalar::kKernels; }
}  // namespace cortex::cpu
