#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd_avx2.h"

namespace cortex::cpu::avx2 {
namespace {
#include "kernels/cpu/all_impl.h"
}  // namespace
}  // namespace cortex::cpu::avx2

namespace cortex::cpu {
const Kernels& avx2_kernels() {
  static constexpr Kernels kernels = avx2::table("avx2", false);
  return kernels;
}
}  // namespace cortex::cpu
