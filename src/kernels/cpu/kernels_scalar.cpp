#include "kernels/cpu/kernels.h"
#include "kernels/cpu/simd_scalar.h"

namespace cortex::cpu::scalar {
namespace {
#include "kernels/cpu/all_impl.h"
}  // namespace
}  // namespace cortex::cpu::scalar

namespace cortex::cpu {
const Kernels& scalar_kernels() {
  static constexpr Kernels kernels = scalar::table("scalar", false);
  return kernels;
}
}  // namespace cortex::cpu
