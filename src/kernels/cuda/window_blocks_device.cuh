#pragma once

#include "kernels/cuda/gemm_sm90_device.cuh"

/// What a cluster that keeps its rows to itself is made of: stores into each other's shared memory
/// that a barrier there counts, products of 64 outputs and 32 rows, and signals between clusters.
namespace cortex::cuda::windows {

using namespace sm90;

constexpr int kRows = 32;                    // of a cluster
constexpr int kWidth = 64;                   // columns of a slice of them, outputs of a tile
constexpr int kChunk = kRows * kSliceBytes;  // a slice: rows of 128 bytes, swizzled
constexpr int kGroups = 2;                   // warpgroups that multiply
constexpr int kGroupThreads = 128;
constexpr int kWorkers = kGroups * kGroupThreads;
constexpr int kHalf = kChunk / kGroups;      // of a slice: the rows that a warpgroup finishes
constexpr int kTile = kWidth * kSliceBytes;  // of weights, 64 inputs
constexpr int kStage = kGroups * kTile;      // a tile a warpgroup
constexpr int kStages = 8;
// A wait of about ten seconds: the others are gone.
constexpr int kMostPolls = 1 << 24;

#if CORTEX_SM90A

/// To another block; its barrier counts the bytes.
__device__ __forceinline__ void store_at(std::uint32_t to, float x, std::uint32_t barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(to), "f"(x),
      "r"(barrier)
      : "memory");
}
/// What was written before is seen by whoever sees the value.
__device__ __forceinline__ void store_release(std::uint64_t* p, std::uint64_t value) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(value) : "memory");
}
__device__ __forceinline__ void count_release(std::uint64_t* p) {
  asm volatile("red.release.gpu.global.add.u64 [%0], 1;" ::"l"(p) : "memory");
}
__device__ __forceinline__ void wait_signal(const std::uint64_t* p, std::uint64_t least) {
  std::uint64_t value = 0;
  for (int polls = 0; polls < kMostPolls; ++polls) {
    asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(p) : "memory");
    if (value >= least) return;
  }
  __trap();
}

/// Lane 4 g + t holds row g, columns 2 t and 2 t + 1 of 8 x 8; returns the same of the transpose.
__device__ __forceinline__ std::uint32_t transpose(std::uint32_t x) {
  std::uint32_t y;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/// Sums of 64 outputs for 32 rows: lane 4 g + t of warp w holds, at 4 i + 2 h + e, output
/// 16 w + 8 h + g for row 8 i + 2 t + e.
using Sums = float[16];

/// d (+)= A [64, 16] B [32, 16]^T, both in shared memory.
__device__ __forceinline__ void wgmma_rows_32(Sums& d, std::uint64_t a, std::uint64_t b,
                                              int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %18, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
      "%9, %10, %11, %12, %13, %14, %15}, %16, %17, p, 1, 1, 0, 0;\n}\n"
      : CORTEX_D16("+f", 0)
      : "l"(a), "l"(b), "r"(accumulate));
}
/// Keeps what is done with sums behind the wait for them.
__device__ __forceinline__ void settle(Sums& d) {
#pragma unroll
  for (int i = 0; i < 16; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

/// The ring of weights as a warpgroup sees it. A stage is two tiles: one a warpgroup, or both for
/// the same. Products are issued stage by stage; hold() ends a batch of them and waits for the one
/// before, whose stages it gives back.
struct Weights {
  std::uint32_t tiles, full, empty;
  int stage = 0;
  std::uint32_t parity = 0;
  int held = 0, batch = 0;  // stages of the batch before, and of this one

  /// d (+)= a tile of the next stage times a slice of rows.
  __device__ __forceinline__ void multiply(Sums& d, int tile, std::uint32_t rows, bool first) {
    const std::uint64_t a = descriptor(tiles + stage * kStage + tile * kTile);
    const std::uint64_t b = descriptor(rows);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < 4; ++i) wgmma_rows_32(d, a + 2 * i, b + 2 * i, !first || i > 0);
  }
  __device__ __forceinline__ void wait() const { barrier_wait(full + 8 * stage, parity); }
  __device__ __forceinline__ void advance() {
    ++batch;
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  }
  /// The warpgroup's own tile of the next stage.
  __device__ __forceinline__ void multiply(Sums& d, std::uint32_t rows, bool first) {
    wait();
    multiply(d, static_cast<int>(threadIdx.x) / kGroupThreads, rows, first);
    advance();
  }
  __device__ __forceinline__ void hold() {
    wgmma_commit();
    wgmma_wait<1>();
    release(held, batch + held);
    held = batch;
    batch = 0;
  }
  /// All products are done.
  __device__ __forceinline__ void finish() {
    wgmma_wait<0>();
    release(held + batch, held + batch);
    held = batch = 0;
  }
  /// The next stage is for the other warpgroup.
  __device__ __forceinline__ void skip() {
    wait();
    advance();
    release(1, 1);
    batch = 0;
  }
  /// `count` stages, the first of them `back` before the next one.
  __device__ __forceinline__ void release(int count, int back) const {
    if (threadIdx.x % kWarp != 0) return;
    for (int i = 0; i < count; ++i)
      barrier_arrive(empty + 8 * ((stage + kStages - back + i) % kStages));
  }
};

#endif  // CORTEX_SM90A

}  // namespace cortex::cuda::windows
