#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <mutex>

#include "kernels/cuda/memory.h"
#include "kernels/ops.h"

/// What every kernel here is written with.
namespace cortex::cuda {

using Bf16 = __nv_bfloat16;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffU;

template <class... Formal, class... Actual>
void launch_as(bool together, void (*kernel)(Formal...), dim3 grid, int threads,
               std::size_t shared_bytes, cudaStream_t stream, Actual... actual) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[0].val.programmaticStreamSerializationAllowed = 1;
  attributes[1].id = cudaLaunchAttributeCooperative;
  attributes[1].val.cooperative = 1;
  config.attrs = attributes;
  config.numAttrs = together ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Formal>(actual)...), "cudaLaunchKernelEx");
}
/// Launches so that the kernel may start while the one before it on the stream finishes: it must
/// call wait_for_previous() before it touches what an earlier kernel of the same forward writes or
/// reads. What earlier forwards and copies left is there from the start.
template <class... Formal, class... Actual>
void launch(void (*kernel)(Formal...), dim3 grid, int threads, std::size_t shared_bytes,
            cudaStream_t stream, Actual... actual) {
  launch_as(false, kernel, grid, threads, shared_bytes, stream, actual...);
}
/// The same, all blocks on the device at once: they may wait for each other.
template <class... Formal, class... Actual>
void launch_together(void (*kernel)(Formal...), dim3 grid, int threads, std::size_t shared_bytes,
                     cudaStream_t stream, Actual... actual) {
  launch_as(true, kernel, grid, threads, shared_bytes, stream, actual...);
}

/// Lets a kernel use more than 48 KB of shared memory, its own arrays included. Never takes back
/// what another thread was let.
template <class Kernel>
void allow_shared(Kernel* kernel, std::size_t bytes) {
  if (bytes <= 40 * 1024) return;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  cudaFuncAttributes attributes = {};
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");
  if (attributes.maxDynamicSharedSizeBytes >= static_cast<int>(bytes)) return;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(bytes)),
        "cudaFuncSetAttribute");
}

inline unsigned blocks_of(std::int64_t n, std::int64_t each) {
  return static_cast<unsigned>((n + each - 1) / each);
}

#ifdef __CUDACC__

/// Lets the next kernel be set up while this one runs.
__device__ inline void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
/// Waits until the kernel before has ended and its writes are seen. Every kernel does, at its end
/// where it needs none of them: the one after counts on all before it.
__device__ inline void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ inline void begin_kernel() {
  let_next_begin();
  wait_for_previous();
}

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(Bf16 x) { return __bfloat162float(x); }
template <class T>
__device__ T narrow_to(float x);
template <>
__device__ inline float narrow_to<float>(float x) {
  return x;
}
template <>
__device__ inline Bf16 narrow_to<Bf16>(float x) {
  return __float2bfloat16_rn(x);
}

/// Two floats as bf16, the first in the low half.
__device__ inline std::uint32_t pack_bf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
__device__ inline float2 unpack_bf16(std::uint32_t pair) {
  return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U)};
}

/// Sums and maxima over a warp: the same order whatever else runs.
__device__ inline float warp_sum(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}
__device__ inline float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, step));
  return x;
}

/// 2^x to 2 ulp; 0 for what would be denormal.
__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// x Phi(x) with Phi(x) = 1 / (1 + 2^(-x q(x^2))): erf(x / sqrt 2) within 3e-6, the product within
/// 6e-6. q is a minimax fit; it grows, so that both tails saturate.
__device__ __forceinline__ float gelu(float x) {
  const float u = __fmul_rn(x, x);
  float q = fmaf(4.11173824e-06f, u, -0.000105875552f);
  q = fmaf(q, u, -0.000253410864f);
  q = fmaf(q, u, 0.105005935f);
  q = fmaf(q, u, 2.30216527f);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(1.0f + exp2_fast(-__fmul_rn(x, q))));
  return __fmul_rn(x, inverse);
}
/// x Phi(x) for epilogues that products wait for: Phi(x) = (1 + tanh(x (c0 + c1 x^2))) / 2 with the
/// hardware's tanh. Within 2.8e-4 of x Phi(x).
__device__ __forceinline__ float gelu_fast(float x) {
  float t;
  asm("tanh.approx.f32 %0, %1;"
      : "=f"(t)
      : "f"(__fmul_rn(x, fmaf(0.0347017f, __fmul_rn(x, x), 0.8001543f))));
  const float half = __fmul_rn(0.5f, x);
  return fmaf(half, t, half);
}
/// The same of two numbers in half precision, for a result in 8 bits: within
/// 1.2e-3 + 2^-11 |x|.
__device__ __forceinline__ __half2 gelu_fast(float low, float high) {
  // Below -16 all is 0, and no infinity may meet another of the other sign.
  const __half2 x = __hmax2_nan(__floats2half2_rn(low, high), __float2half2_rn(-16.0f));
  const __half2 y = __hmul2(
      x, __hfma2(__float2half2_rn(0.0347017f), __hmul2(x, x), __float2half2_rn(0.8001543f)));
  std::uint32_t t;
  asm("tanh.approx.f16x2 %0, %1;" : "=r"(t) : "r"(*reinterpret_cast<const std::uint32_t*>(&y)));
  const __half2 half = __hmul2(__float2half2_rn(0.5f), x);
  return __hfma2(half, *reinterpret_cast<const __half2*>(&t), half);
}
__device__ __forceinline__ float gelu_exact(float x) {
  return 0.5f * x * (1.0f + erff(x * 0.70710678118654752f));
}

/// d += a b with a 16 x k, b k x 8; k is 16 in bf16, 32 in int8. Lane 4 g + t holds d[g][2t, 2t +
/// 1] and d[g + 8][..], and words t of two groups of 16 bytes of a's rows g, g + 8 and of b's
/// column g.
__device__ inline void mma(float (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                           std::uint32_t a3, std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
__device__ inline void mma(int (&d)[4], std::uint32_t a0, std::uint32_t a1, std::uint32_t a2,
                           std::uint32_t a3, std::uint32_t b0, std::uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/// 32 bytes of k, which is one mma: lane t holds bytes [8 t, 8 t + 8) of rows g (`top`) and g + 8
/// of a and of column g of b. An mma's sum has no order: which of its k a word stands for does not
/// matter as long as a and b agree.
template <class Sum>
__device__ inline void mma_32_bytes(Sum (&d)[4], uint2 top, uint2 bottom, uint2 b) {
  mma(d, top.x, bottom.x, top.y, bottom.y, b.x, b.y);
}
/// 64 bytes, two mma: lane t holds bytes [16 t, 16 t + 16).
template <class Sum>
__device__ inline void mma_64_bytes(Sum (&d)[4], uint4 top, uint4 bottom, uint4 b) {
  mma(d, top.x, bottom.x, top.y, bottom.y, b.x, b.y);
  mma(d, top.z, bottom.z, top.w, bottom.w, b.z, b.w);
}

__device__ inline void copy_16_async(void* shared, const void* global, bool valid) {
  const auto to = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  const int bytes = valid ? 16 : 0;  // the rest is filled with zeros
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(bytes));
}
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
__device__ inline void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#endif  // __CUDACC__

}  // namespace cortex::cuda
