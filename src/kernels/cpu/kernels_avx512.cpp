#define CORTEX_ISA avx512
#define CORTEX_NATIVE_BF16 0
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd_avx512.h"

namespace cortex::cpu::avx512 {
namespace {
#include "kernels/cpu/all_impl.h"
}  // namespace
}  // namespace cortex::cpu::avx512

namespace cortex::cpu {
const Kernels& avx512_kernels() {
  static constexpr Kernels kernels = avx512::table("avx512", false);
  return kernels;
}
}  // namespace cortex::cpu
