#define CORTEX_ISA avx512_bf16
#define CORTEX_NATIVE_BF16 1
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd_avx512.h"

namespace cortex::cpu::avx512_bf16 {
namespace {
#include "kernels/cpu/all_impl.h"
}  // namespace
}  // namespace cortex::cpu::avx512_bf16

namespace cortex::cpu {
const Kernels& avx512_bf16_kernels() {
  static constexpr Kernels kernels = avx512_bf16::table("avx512_bf16", true);
  return kernels;
}
}  // namespace cortex::cpu
