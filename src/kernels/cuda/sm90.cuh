#pragma once

#include <cuda.h>

#include "kernels/cuda/device.cuh"

/// Instructions of sm_90a: the bulk copy engine, its barriers, and the tensor cores' matrix
/// products by warpgroup.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define CORTEX_SM90A 1
#else
#define CORTEX_SM90A 0
#pragma nv_diag_suppress 177  // without the kernels' bodies, nothing calls the functions below
#endif

namespace cortex::cuda::sm90 {

__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void barrier_init(std::uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

__device__ __forceinline__ void barrier_expect(std::uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void load_tile(std::uint32_t to, const CUtensorMap* map,
                                          std::uint32_t barrier, int column, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row)
      : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int kThreads>
__device__ __forceinline__ void named_barrier(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(kThreads) : "memory");
}

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps what is done with registers on its side of a wait or a fence.
template <int kCount>
__device__ __forceinline__ void pin(float (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(r[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(std::uint32_t (&r)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(r[i])::"memory");
}

/// Rows of 128 bytes, 128-byte swizzle, groups of 8 rows 1024 bytes apart.
__device__ __forceinline__ std::uint64_t descriptor(std::uint32_t address) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{64} << 32) | (std::uint64_t{1} << 16) |
         ((address & 0x3FFFF) >> 4);
}

#define CORTEX_F4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define CORTEX_F32                                                                       \
  CORTEX_F4(0), CORTEX_F4(4), CORTEX_F4(8), CORTEX_F4(12), CORTEX_F4(16), CORTEX_F4(20), \
      CORTEX_F4(24), CORTEX_F4(28)
#define CORTEX_D32                                                                              \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, " \
  "%20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "

/// d (+)= A [64, 16] B [16, 64], bf16 in shared memory: rows of A, columns of B. Lane 4 g + t of
/// warp w of the warpgroup holds in d[4 j + e] row 16 w + g + e / 2 * 8, column 8 j + 2 t + e % 2.
__device__ __forceinline__ void wgmma_64x64x16(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                               bool accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " CORTEX_D32
      "%32, %33, p, 1, 1, 0, 0;\n}\n"
      : CORTEX_F32
      : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)));
}
/// d += A B with rows of B in shared memory, and of A in registers: words (row 16 w + g, columns
/// 2 t), (row + 8, the same), (row, columns 2 t + 8), (row + 8, ..).
__device__ __forceinline__ void wgmma_64x64x16(float (&d)[32], const std::uint32_t (&a)[4],
                                               std::uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " CORTEX_D32
               "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
               : CORTEX_F32
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
#undef CORTEX_D32
#undef CORTEX_F32
#undef CORTEX_F4

/// Four 8 x 8 matrices of 16-bit elements; lanes 8 i to 8 i + 7 give the rows' addresses of matrix
/// i.
__device__ __forceinline__ void store_matrices(std::uint32_t address, std::uint32_t r0,
                                               std::uint32_t r1, std::uint32_t r2,
                                               std::uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

}  // namespace cortex::cuda::sm90
