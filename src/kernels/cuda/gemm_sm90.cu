#include "kernels/cuda/gemm_sm90.h"

#include <cuda.h>

#include <algorithm>
#include <atomic>
#include <cstddef>

#include "kernels/cuda/device.cuh"

// Two kernels share the pieces below.
//
// `pair_kernel` is the usual one. Persistent; one warp of the first warpgroup fetches tiles of A
// and W through tensor maps into a ring in shared memory, the two other warpgroups take output
// tiles in turn. The ring carries their tiles in order, so while one warpgroup multiplies, the
// other is in its epilogue: the tensor cores see one product after the other.
//
// `small_kernel` is for kAdd with few rows, whose outputs are too few for all multiprocessors: one
// output tile a block, K split over the blocks of a cluster, the partial sums added through
// distributed shared memory in the order of the blocks.
//
// A slice of K is 128 bytes of every row, for every element type: the swizzle's width, and four
// steps of wgmma.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define CORTEX_SM90A 1
#else
#define CORTEX_SM90A 0
#pragma nv_diag_suppress 177  // without the kernels' bodies, nothing calls the functions below
#endif

namespace cortex::cuda {
namespace {

constexpr int kChainSlices = 4;       // of K, that `chains` sums apart: 256 in bf16
constexpr int kSliceBytes = 128;      // of one row of A or W, in one stage
constexpr int kMaxStages = 16;        // of the small kernel's ring
constexpr int kStageFloats = 72;      // a row of 64 f32 partial sums, padded off the banks
constexpr int kSharedLimit = 232448;  // bytes a block may have
constexpr int kPairThreads = 384;

struct KernelArgs {
  CUtensorMap a, w, out, z_map;  // `out`: the bf16 result, of kAdd the narrow copy
  int m, n, k_tiles, n_tiles, tiles, stages;
  int square_parts;
  float k_elements, eps;
  const float* square;
  const float* a_scale;
  const float* w_scale;
  __nv_bfloat16* out_pointer;
  std::int64_t ldo;
  float* z;
  std::int64_t ldz;
  float* square_out;
};

// ---- Instructions ------------------------------------------------------------------------------

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

__device__ __forceinline__ void barrier_arrive(std::uint32_t barrier, int count = 1) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count)
               : "memory");
}

// Arrives at the same barrier of block `rank` of the cluster. It says that the tensor cores are
// done with a stage; no ordinary writes need to be seen there, so the default scope does.
__device__ __forceinline__ void barrier_arrive_at(std::uint32_t barrier, std::uint32_t rank,
                                                  int count = 1) {
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [remote], %2;\n"
      "}\n" ::"r"(barrier),
      "r"(rank), "r"(count)
      : "memory");
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

// The same bytes into every block of `mask`, each told through its own barrier.
__device__ __forceinline__ void load_tile_to_all(std::uint32_t to, const CUtensorMap* map,
                                                 std::uint32_t barrier, int column, int row,
                                                 std::uint16_t mask) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "h"(mask)
      : "memory");
}

// Into the L2 cache alone.
__device__ __forceinline__ void prefetch_tile(const CUtensorMap* map, int column, int row) {
  asm volatile("cp.async.bulk.prefetch.tensor.2d.L2.global [%0, {%1, %2}];" ::"l"(map), "r"(column),
               "r"(row)
               : "memory");
}

__device__ __forceinline__ void store_tile(const CUtensorMap* map, std::uint32_t from, int column,
                                           int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(map),
      "r"(from), "r"(column), "r"(row)
      : "memory");
}

__device__ __forceinline__ void store_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Until the tiles stored by this thread, but for its last `Pending` groups, have left shared
// memory.
template <int Pending = 0>
__device__ __forceinline__ void store_wait() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void proxy_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int Threads = 128>
__device__ __forceinline__ void named_barrier(int id) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(Threads) : "memory");
}

// The consumers' turns: a warpgroup waits for its own and is passed it by the other one.
__device__ __forceinline__ void turn_wait(int consumer) {
  asm volatile("bar.sync %0, 256;" ::"r"(3 + consumer) : "memory");
}

__device__ __forceinline__ void turn_pass(int consumer) {
  asm volatile("bar.arrive %0, 256;" ::"r"(3 + consumer) : "memory");
}

__device__ __forceinline__ void cluster_sync() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;\n" ::
          : "memory");
}

__device__ __forceinline__ std::uint32_t cluster_rank() {
  std::uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Inputs written by the kernel before are visible after this.
__device__ __forceinline__ void dependency_wait() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

__device__ __forceinline__ void dependents_may_launch() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int Pending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
}

// Rows of 128 bytes, 128-byte swizzle, groups of 8 rows 1024 bytes apart.
__device__ __forceinline__ std::uint64_t descriptor(std::uint32_t address) {
  return (std::uint64_t{1} << 62) | (std::uint64_t{64} << 32) | (std::uint64_t{1} << 16) |
         ((address & 0x3FFFF) >> 4);
}

#define CORTEX_REGS_32                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define CORTEX_REGS_64                                                                    \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, " \
  "%19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, " \
  "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, " \
  "%53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

#define CORTEX_D4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define CORTEX_D16(c, i) \
  CORTEX_D4(c, i), CORTEX_D4(c, i + 4), CORTEX_D4(c, i + 8), CORTEX_D4(c, i + 12)
#define CORTEX_OPERANDS_32(c) CORTEX_D16(c, 0), CORTEX_D16(c, 16)
#define CORTEX_OPERANDS_64(c) CORTEX_OPERANDS_32(c), CORTEX_D16(c, 32), CORTEX_D16(c, 48)

#define CORTEX_WGMMA(shape, types, count, da, db, add, tail, c)                                    \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned." shape \
               "." types " {" CORTEX_REGS_##count "}, " da ", " db ", p" tail ";\n}\n"             \
               : CORTEX_OPERANDS_##count(c)                                                        \
               : "l"(a), "l"(b), "r"(accumulate))

// d (+)= A[64, 32 bytes] * B[N, 32 bytes]^T, both in shared memory.
template <GemmType Type, int N, class T>
__device__ __forceinline__ void wgmma(T (&d)[N / 2], std::uint64_t a, std::uint64_t b,
                                      int accumulate) {
  static_assert(N == 64 || N == 128);
  if constexpr (N == 64 && Type == GemmType::kBf16) {
    CORTEX_WGMMA("m64n64k16", "f32.bf16.bf16", 32, "%32", "%33", "%34", ", 1, 1, 0, 0", "+f");
  } else if constexpr (N == 64 && Type == GemmType::kE4m3) {
    CORTEX_WGMMA("m64n64k32", "f32.e4m3.e4m3", 32, "%32", "%33", "%34", ", 1, 1", "+f");
  } else if constexpr (N == 64) {
    CORTEX_WGMMA("m64n64k32", "s32.s8.s8", 32, "%32", "%33", "%34", "", "+r");
  } else if constexpr (Type == GemmType::kBf16) {
    CORTEX_WGMMA("m64n128k16", "f32.bf16.bf16", 64, "%64", "%65", "%66", ", 1, 1, 0, 0", "+f");
  } else if constexpr (Type == GemmType::kE4m3) {
    CORTEX_WGMMA("m64n128k32", "f32.e4m3.e4m3", 64, "%64", "%65", "%66", ", 1, 1", "+f");
  } else {
    CORTEX_WGMMA("m64n128k32", "s32.s8.s8", 64, "%64", "%65", "%66", "", "+r");
  }
}

template <GemmType Type>
struct Traits {
  using Sum = float;
  static constexpr int kSlice = Type == GemmType::kBf16 ? 64 : 128;  // elements of K
};
template <>
struct Traits<GemmType::kInt8> {
  using Sum = int;
  static constexpr int kSlice = 128;
};

__device__ __forceinline__ void store_matrices(std::uint32_t address, std::uint32_t r0,
                                               std::uint32_t r1, std::uint32_t r2,
                                               std::uint32_t r3) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r0), "r"(r1), "r"(r2), "r"(r3)
               : "memory");
}

__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// ---- Arithmetic of the epilogues ---------------------------------------------------------------

// What makes the factor of a row. Loaded before the product and used after it, so that nothing
// waits for the loads.
struct RowParts {
  float square[16];
  float scale;
};

__device__ __forceinline__ RowParts load_row(const KernelArgs& args, int row, bool wanted) {
  RowParts parts;
#pragma unroll
  for (int i = 0; i < 16; ++i) parts.square[i] = 0;
  parts.scale = 1;
  if (!wanted || row >= args.m) return parts;
  if (args.square != nullptr) {
    const float* from = args.square + static_cast<std::int64_t>(row) * args.square_parts;
    if ((args.square_parts & 3) == 0) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (4 * i < args.square_parts) {
          const float4 four = *reinterpret_cast<const float4*>(from + 4 * i);
          parts.square[4 * i] = four.x;
          parts.square[4 * i + 1] = four.y;
          parts.square[4 * i + 2] = four.z;
          parts.square[4 * i + 3] = four.w;
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < 16; ++i) {
        if (i < args.square_parts) parts.square[i] = from[i];
      }
    }
  }
  if (args.a_scale != nullptr) parts.scale = args.a_scale[row];
  return parts;
}

__device__ __forceinline__ float row_factor(const KernelArgs& args, const RowParts& parts,
                                            int row) {
  if (args.square == nullptr) return parts.scale;
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) sum += parts.square[i];  // those absent are zero
  if (args.square_parts > 16 && row < args.m) {
    const float* from = args.square + static_cast<std::int64_t>(row) * args.square_parts;
    for (int i = 16; i < args.square_parts; ++i) sum += from[i];
  }
  return rsqrtf(sum / args.k_elements + args.eps) * parts.scale;
}

// ---- Many rows ---------------------------------------------------------------------------------

template <int Blocks>  // Blocks * 64 rows of a tile
struct PairShape {
  static constexpr int kRows = 64 * Blocks;
  static constexpr int kColumns = 128;
  static constexpr int kABytes = kRows * kSliceBytes;
  static constexpr int kBBytes = kColumns * kSliceBytes;
  static constexpr int kStage = kABytes + kBBytes;
  static constexpr int kHalf = kRows * 128;  // bytes of 64 columns of the bf16 result
  static constexpr int kOut = 2 * kHalf;     // of each warpgroup
  static constexpr int kBarriers = 512;      // bytes
  static constexpr int kFactors = 2 * kRows * 4;
  static constexpr int kStages = (kSharedLimit - 1024 - kBarriers - kFactors - 2 * kOut) / kStage;
  static constexpr int kShared = 1024 + kStages * kStage + 2 * kOut + kBarriers + kFactors;
  static_assert(kStages * 16 <= kBarriers && kShared <= kSharedLimit && 2 * kHalf <= kStage);
};

__device__ __forceinline__ float2 load_pair(std::uint32_t address) {
  float2 pair;
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(pair.x), "=f"(pair.y)
               : "r"(address)
               : "memory");
  return pair;
}

__device__ __forceinline__ void store_pair(std::uint32_t address, float2 pair) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(pair.x), "f"(pair.y)
               : "memory");
}

// z takes one of two ways. Tiles of 128 rows: through the ring, like A and W, in two stages of 64
// columns (two boxes of 32 each), the sum formed in place and stored from there; registers would
// not do. Tiles of 64 rows: by the threads, the first half fetched before the product, so that the
// ring is left to the next tile.
template <GemmEpilogue Epilogue, int Blocks>
constexpr bool kRingZ = Epilogue == GemmEpilogue::kAdd&& Blocks == 2;
template <GemmEpilogue Epilogue, int Blocks>
constexpr bool kDirectZ = Epilogue == GemmEpilogue::kAdd&& Blocks == 1;

// A warpgroup finishes its tile in batches of 64 x 64: batch b is block b % Blocks of half b /
// Blocks. z is fetched by units of half a batch, 64 x 32. This thread's part: rows r and r + 8,
// pairs of columns 8 apart.
template <int Blocks>
__device__ __forceinline__ void load_z(const KernelArgs& args, float2 (&old)[2][4], int unit,
                                       int row0, int column0, int thread) {
  const int batch = unit / 2;
  const int row = row0 + batch % Blocks * 64 + thread / 32 * 16 + thread % 32 / 4;
  const int column = column0 + batch / Blocks * 64 + unit % 2 * 32 + 2 * (thread % 4);
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float* z = args.z + static_cast<std::int64_t>(row + 8 * r) * args.ldz + column;
    const bool inside = row + 8 * r < args.m && column < args.n;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      old[r][j] = make_float2(0, 0);
      if (inside) old[r][j] = *reinterpret_cast<const float2*>(z + 8 * j);
    }
  }
}

// One warpgroup's tile, out of its accumulators. `z`: the stages that hold z, of
// kRingZ; `old`: its first two units, of kDirectZ.
template <GemmEpilogue Epilogue, int Blocks, class T>
__device__ __forceinline__ void pair_epilogue(const KernelArgs& args, T (&sum)[Blocks][64],
                                              const std::uint32_t (&z)[2], float2 (&old)[2][2][4],
                                              const float* factors, std::uint32_t staging,
                                              int group, int row0, int column0, int thread) {
  using Shape = PairShape<Blocks>;
  const int warp = thread / 32;
  const int lane = thread % 32;
  // The tile stored last has left the staging buffer.
  if (thread == 0) store_wait();
  named_barrier(1 + group);
  float factor[Blocks][2];
#pragma unroll
  for (int block = 0; block < Blocks; ++block) {
    factor[block][0] = factors[block * 64 + warp * 16 + lane / 4];
    factor[block][1] = factors[block * 64 + warp * 16 + lane / 4 + 8];
  }

  const int matrix_row = warp * 16 + (lane & 15);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (column0 + half * 64 >= args.n) break;
    float2 scale[8];
    if (args.w_scale != nullptr) {
      const float* from = args.w_scale + column0 + half * 64 + 2 * (lane % 4);
#pragma unroll
      for (int j = 0; j < 8; ++j) scale[j] = __ldg(reinterpret_cast<const float2*>(from + 8 * j));
    }
#pragma unroll
    for (int block = 0; block < Blocks; ++block) {
      const int row = row0 + block * 64 + warp * 16 + lane / 4;
      float x[32];
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        x[i] = static_cast<float>(sum[block][half * 32 + i]) * factor[block][(i / 2) % 2];
      }
      if (args.w_scale != nullptr) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          x[4 * j] *= scale[j].x;
          x[4 * j + 1] *= scale[j].y;
          x[4 * j + 2] *= scale[j].x;
          x[4 * j + 3] *= scale[j].y;
        }
      }
      if constexpr (Epilogue == GemmEpilogue::kGelu) {
#pragma unroll
        for (int i = 0; i < 32; ++i) x[i] = gelu(x[i]);
      }
      if constexpr (Epilogue == GemmEpilogue::kAdd) {
        float square[2] = {0, 0};
        if constexpr (kDirectZ<Epilogue, Blocks>) {
#pragma unroll
          for (int part = 0; part < 2; ++part) {
            const int unit = 2 * (half * Blocks + block) + part;
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float* to = args.z + static_cast<std::int64_t>(row + 8 * r) * args.ldz + column0 +
                          half * 64 + 32 * part + 2 * (lane % 4);
#pragma unroll
              for (int j = 0; j < 4; ++j) {
                const int at = 16 * part + 4 * j + 2 * r;
                float2 now;
                now.x = old[part][r][j].x + x[at];
                now.y = old[part][r][j].y + x[at + 1];
                if (row + 8 * r < args.m) *reinterpret_cast<float2*>(to + 8 * j) = now;
                x[at] = now.x;
                x[at + 1] = now.y;
                square[r] += fmaf(now.y, now.y, now.x * now.x);
              }
            }
            if (unit + 2 < 4 * Blocks) {
              load_z<Blocks>(args, old[part], unit + 2, row0, column0, thread);
            }
          }
        }
#pragma unroll
        for (int r = 0; r < (kRingZ<Epilogue, Blocks> ? 2 : 0); ++r) {
          const std::uint32_t line =
              z[half] + (block * 64 + warp * 16 + lane / 4 + 8 * r) * 128 + (lane & 1) * 8;
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const int chunk = (j % 4 * 2 + lane % 4 / 2) ^ (lane / 4);
            const std::uint32_t at = line + j / 4 * Shape::kHalf + chunk * 16;
            float2 now = load_pair(at);
            now.x += x[4 * j + 2 * r];
            now.y += x[4 * j + 2 * r + 1];
            store_pair(at, now);
            x[4 * j + 2 * r] = now.x;
            x[4 * j + 2 * r + 1] = now.y;
            square[r] += fmaf(now.y, now.y, now.x * now.x);
          }
        }
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          square[r] += __shfl_xor_sync(0xFFFFFFFF, square[r], 1);
          square[r] += __shfl_xor_sync(0xFFFFFFFF, square[r], 2);
          if (lane % 4 == 0 && row + 8 * r < args.m) {
            args.square_out[static_cast<std::int64_t>(row + 8 * r) * (args.n / 64) +
                            (column0 / 64 + half)] = square[r];
          }
        }
      }
      const std::uint32_t to = staging + half * Shape::kHalf + block * 64 * 128 + matrix_row * 128;
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        const std::uint32_t chunk = static_cast<std::uint32_t>((j + lane / 16) ^ (lane & 7)) * 16;
        store_matrices(to + chunk, pack(x[4 * j], x[4 * j + 1]), pack(x[4 * j + 2], x[4 * j + 3]),
                       pack(x[4 * j + 4], x[4 * j + 5]), pack(x[4 * j + 6], x[4 * j + 7]));
      }
    }
    proxy_fence();
    named_barrier(1 + group);
    if (thread == 0) {
      // Rows past m are clipped by the map.
      if constexpr (kRingZ<Epilogue, Blocks>) {
        store_tile(&args.z_map, z[half], column0 + half * 64, row0);
        store_tile(&args.z_map, z[half] + Shape::kHalf, column0 + half * 64 + 32, row0);
      }
      store_tile(&args.out, staging + half * Shape::kHalf, column0 + half * 64, row0);
      store_commit();
    }
  }
}

// `Chain`: K is summed in chains of kChainSlices slices, the chains first to last, as the kernels of
// linear.cu do; else in one.
// `Twins`: blocks of a cluster (1 or 2). Twins work on tiles one below the other, so they share W:
// each fetches half of it for both.
template <GemmType Type, GemmEpilogue Epilogue, int Blocks, int Twins, bool Chain = false>
__global__ __launch_bounds__(kPairThreads,
                             1) void pair_kernel(const __grid_constant__ KernelArgs args) {
#if CORTEX_SM90A
  using Shape = PairShape<Blocks>;
  using Sum = typename Traits<Type>::Sum;
  constexpr int kSlice = Traits<Type>::kSlice;
  constexpr int kStages = Shape::kStages;
  extern __shared__ unsigned char shared[];
  const std::uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  const std::uint32_t out_base = base + kStages * Shape::kStage;
  const std::uint32_t full = out_base + 2 * Shape::kOut;
  const std::uint32_t empty = full + 8 * kStages;
  float* factors =
      reinterpret_cast<float*>(shared + (full - shared_address(shared)) + Shape::kBarriers);

  const int group = static_cast<int>(threadIdx.x) / 128;
  const std::uint32_t rank = Twins > 1 ? cluster_rank() : 0;
  const int worker = static_cast<int>(blockIdx.x) / Twins;
  const int workers = static_cast<int>(gridDim.x) / Twins;

  if (threadIdx.x == 0) {
    prefetch_map(&args.w);
    prefetch_map(&args.a);
    prefetch_map(&args.out);
    if constexpr (kRingZ<Epilogue, Blocks>) prefetch_map(&args.z_map);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * Twins);  // a warp of the consumer, here and at the twin
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
  }
  if constexpr (Twins > 1) {
    __syncwarp();
    cluster_sync();
  } else {
    __syncthreads();
  }
  dependents_may_launch();

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0 && worker < args.tiles) {
      const auto load_w = [&](int s, int tile, int k) {
        const std::uint32_t to = base + s * Shape::kStage + Shape::kABytes;
        const int row = tile % args.n_tiles * Shape::kColumns;
        if constexpr (Twins > 1) {
          constexpr int kShare = Shape::kColumns / Twins;
          load_tile_to_all(to + rank * kShare * kSliceBytes, &args.w, full + 8 * s, k * kSlice,
                           row + static_cast<int>(rank) * kShare, (1 << Twins) - 1);
        } else {
          load_tile(to, &args.w, full + 8 * s, k * kSlice, row);
        }
      };
      // Weights do not come from the kernel before: they need not wait for it.
      const int early = min(kStages, args.k_tiles);
      for (int s = 0; s < early; ++s) {
        barrier_expect(full + 8 * s, Shape::kStage);
        load_w(s, worker, s);
      }
      dependency_wait();
      int step = 0, s = 0;
      std::uint32_t parity = 1;
      for (int tile = worker; tile < args.tiles; tile += workers) {
        const int row = (tile / args.n_tiles * Twins + static_cast<int>(rank)) * Shape::kRows;
        if constexpr (kRingZ<Epilogue, Blocks>) {
          for (int box = 0; box < Shape::kColumns; box += 32) {
            prefetch_tile(&args.z_map, tile % args.n_tiles * Shape::kColumns + box, row);
          }
        }
        for (int k = 0; k < args.k_tiles; ++k, ++step) {
          if (step >= early) {
            barrier_wait(empty + 8 * s, parity);
            barrier_expect(full + 8 * s, Shape::kStage);
            load_w(s, tile, k);
          }
          load_tile(base + s * Shape::kStage, &args.a, full + 8 * s, k * kSlice, row);
          if (++s == kStages) {
            s = 0;
            parity ^= 1;
          }
        }
        if constexpr (kRingZ<Epilogue, Blocks>) {
          // z of the tile follows its product through the ring: two stages of 64 columns.
          const int column = tile % args.n_tiles * Shape::kColumns;
          for (int half = 0; half < 2; ++half, ++step) {
            barrier_wait(empty + 8 * s, parity);
            barrier_expect(full + 8 * s, 2 * Shape::kHalf);
            for (int box = 0; box < 2; ++box) {
              load_tile(base + s * Shape::kStage + box * Shape::kHalf, &args.z_map, full + 8 * s,
                        column + half * 64 + box * 32, row);
            }
            if (++s == kStages) {
              s = 0;
              parity ^= 1;
            }
          }
        }
      }
    } else if (threadIdx.x == 0) {
      dependency_wait();
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = group - 1;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    const auto release = [&](int s) {
      if constexpr (Twins > 1) {
        if (lane < Twins) barrier_arrive_at(empty + 8 * s, static_cast<std::uint32_t>(lane));
      } else {
        if (lane == 0) barrier_arrive(empty + 8 * s);
      }
    };
    dependency_wait();
    if (consumer == 1) turn_pass(0);
    const int tile_steps = args.k_tiles + (kRingZ<Epilogue, Blocks> ? 2 : 0);
    int step = consumer * tile_steps;
    const auto first_row = [&](int tile) {
      return (tile / args.n_tiles * Twins + static_cast<int>(rank)) * Shape::kRows;
    };
    // Of the tile in hand. Written before a barrier of the epilogue that all threads read it after.
    float* const own_factors = factors + consumer * Shape::kRows;
    int tile = worker + consumer * workers;
    if (tile < args.tiles && thread < Shape::kRows) {
      const int row = first_row(tile) + thread;
      own_factors[thread] = row_factor(args, load_row(args, row, true), row);
    }
    for (; tile < args.tiles; tile += 2 * workers) {
      const int row0 = first_row(tile);
      const int column0 = tile % args.n_tiles * Shape::kColumns;
      Sum sum[Blocks][64];
      Sum total[Chain ? 64 : 1];
      int s = step % kStages;
      std::uint32_t parity = static_cast<std::uint32_t>(step / kStages) & 1;
      int before = s;
      float2 old[2][2][4];
      if constexpr (kDirectZ<Epilogue, Blocks>) {
        load_z<Blocks>(args, old[0], 0, row0, column0, thread);
        load_z<Blocks>(args, old[1], 1, row0, column0, thread);
      }
      // A barrier's parity tells two uses of a stage apart, not more: the other warpgroup must have
      // seen its tile arrive before this one looks for the next.
      turn_wait(consumer);
      for (int k = 0; k < args.k_tiles; ++k) {
        barrier_wait(full + 8 * s, parity);
        const std::uint32_t a = base + s * Shape::kStage;
        const std::uint64_t a_desc = descriptor(a);
        const std::uint64_t b_desc = descriptor(a + Shape::kABytes);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int block = 0; block < Blocks; ++block) {
            wgmma<Type, 128>(sum[block], a_desc + block * 512 + 2 * i, b_desc + 2 * i,
                             (Chain ? k % kChainSlices : k) + i);
          }
        }
        wgmma_commit();
        if (k > 0) {
          wgmma_wait<1>();
          release(before);
        }
        before = s;
        if constexpr (Chain) {
          if (k % kChainSlices == kChainSlices - 1 || k == args.k_tiles - 1) {
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < 64; ++i) {
              total[i] = k < kChainSlices ? sum[0][i] : total[i] + sum[0][i];
            }
          }
        }
        if (++s == kStages) {
          s = 0;
          parity ^= 1;
        }
      }
      int z_stage[2] = {0, 0};
      std::uint32_t z[2] = {0, 0};
      if constexpr (kRingZ<Epilogue, Blocks>) {
        for (int half = 0; half < 2; ++half) {
          barrier_wait(full + 8 * s, parity);
          z_stage[half] = s;
          z[half] = base + s * Shape::kStage;
          if (++s == kStages) {
            s = 0;
            parity ^= 1;
          }
        }
      }
      if (tile + workers < args.tiles) turn_pass(1 - consumer);
      wgmma_wait<0>();
      release(before);
      if constexpr (Chain) {
#pragma unroll
        for (int i = 0; i < 64; ++i) sum[0][i] = total[i];
      }
      step += 2 * tile_steps;
      const int next = tile + 2 * workers;
      const int next_row = first_row(next) + thread;
      const bool more = next < args.tiles && thread < Shape::kRows;
      // Loads behind the epilogue's back, where it leaves registers for them.
      constexpr bool kEarly = Epilogue != GemmEpilogue::kAdd;
      RowParts ahead;
      if constexpr (kEarly) ahead = load_row(args, next_row, more);
      pair_epilogue<Epilogue, Blocks>(args, sum, z, old, own_factors,
                                      out_base + consumer * Shape::kOut, consumer, row0, column0,
                                      thread);
      if constexpr (!kEarly) ahead = load_row(args, next_row, more);
      if (more) own_factors[thread] = row_factor(args, ahead, next_row);
      if constexpr (kRingZ<Epilogue, Blocks>) {
        // The stages of z are free once they are stored.
        if (thread == 0) {
          const auto give_back = [&](int stage) {
            barrier_arrive(empty + 8 * stage, 4);
            if constexpr (Twins > 1) barrier_arrive_at(empty + 8 * stage, rank ^ 1, 4);
          };
          store_wait<1>();
          if (column0 + 64 < args.n) give_back(z_stage[0]);
          store_wait<0>();
          if (column0 + 64 >= args.n) give_back(z_stage[0]);
          give_back(z_stage[1]);
        }
        __syncwarp();
      }
    }
    if (thread == 0) store_wait();
  }
  // A twin may still write into this block's shared memory or arrive at its barriers.
  if constexpr (Twins > 1) {
    __syncwarp();
    cluster_sync();
  }
#else
  __trap();
#endif
}

// ---- Few rows ----------------------------------------------------------------------------------

template <int Groups, int Columns>  // warpgroups that multiply, 64 rows each
struct SmallShape {
  static constexpr int kRows = 64 * Groups;
  static constexpr int kThreads = 128 * Groups + 32;
  static constexpr int kStage = (kRows + Columns) * kSliceBytes;
  static constexpr int kPartial = Columns / 64 * kRows * kStageFloats * 4;  // bytes, over the ring
  static constexpr int shared(int stages) {
    return 1024 + std::max(stages * kStage, kPartial) + 16 * kMaxStages + kRows * 4;
  }
};

__device__ __forceinline__ float4 load_partial(std::uint32_t address, std::uint32_t rank) {
  float4 value;
  asm volatile(
      "{\n"
      ".reg .b32 remote;\n"
      "mapa.shared::cluster.u32 remote, %4, %5;\n"
      "ld.shared::cluster.v4.f32 {%0, %1, %2, %3}, [remote];\n"
      "}\n"
      : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
      : "r"(address), "r"(rank)
      : "memory");
  return value;
}

// Grid: (n / Columns, ceil(m / kRows), parts of K); a cluster is the parts of one tile.
template <GemmType Type, GemmEpilogue Epilogue, int Groups, int Columns>
__global__ __launch_bounds__(SmallShape<Groups, Columns>::kThreads) void small_kernel(
    const __grid_constant__ KernelArgs args) {
#if CORTEX_SM90A
  using Sum = typename Traits<Type>::Sum;
  constexpr int kSlice = Traits<Type>::kSlice;
  using Shape = SmallShape<Groups, Columns>;
  constexpr int kStage = Shape::kStage;
  constexpr int kABytes = Shape::kRows * kSliceBytes;
  constexpr int kMultipliers = 128 * Groups;  // threads
  constexpr int kPass = kMultipliers / 8;     // rows a pass of the epilogue
  constexpr int kHalves = Columns / 64;
  extern __shared__ unsigned char shared[];
  const std::uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  const int stages = args.stages;
  const std::uint32_t full = base + max(stages * kStage, Shape::kPartial);
  const std::uint32_t empty = full + 8 * kMaxStages;
  float* factors =
      reinterpret_cast<float*>(shared + (full - shared_address(shared)) + 16 * kMaxStages);

  const int thread = static_cast<int>(threadIdx.x);
  const int row0 = static_cast<int>(blockIdx.y) * Shape::kRows;
  const int column0 = static_cast<int>(blockIdx.x) * Columns;
  const int part = static_cast<int>(blockIdx.z);
  const int parts = static_cast<int>(gridDim.z);
  const int k_begin = args.k_tiles * part / parts;
  const int k_end = args.k_tiles * (part + 1) / parts;

  if (thread == kMultipliers) {
    prefetch_map(&args.a);
    prefetch_map(&args.w);
    for (int s = 0; s < stages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * Groups);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
  }
  __syncthreads();
  dependents_may_launch();

  if (thread >= kMultipliers) {
    if (thread == kMultipliers) {
      const auto load_w = [&](int s, int k) {
        barrier_expect(full + 8 * s, kStage);
        load_tile(base + s * kStage + kABytes, &args.w, full + 8 * s, k * kSlice, column0);
      };
      const int early = min(stages, k_end - k_begin);
      for (int s = 0; s < early; ++s) load_w(s, k_begin + s);
      dependency_wait();
      int s = 0;
      std::uint32_t parity = 1;
      for (int k = k_begin; k < k_end; ++k) {
        if (k - k_begin >= early) {
          barrier_wait(empty + 8 * s, parity);
          load_w(s, k);
        }
        load_tile(base + s * kStage, &args.a, full + 8 * s, k * kSlice, row0);
        if (++s == stages) {
          s = 0;
          parity ^= 1;
        }
      }
    }
    if (parts > 1) {
      __syncwarp();
      cluster_sync();
      cluster_sync();
    }
  } else {
    const int lane = thread % 32;
    // In the epilogue 8 threads share a row; each has columns [c, c + 4) and [c + 32, c + 36) of
    // every 64. The block finishes `rows` rows of the tile.
    const int rows = Shape::kRows / parts;
    const int first = part * rows + thread / 8;
    const int c = thread % 8 * 4;
    float4 old[4][kHalves][2];
    const int factor_row = row0 + part * rows + thread;
    dependency_wait();
    const RowParts row_parts = load_row(args, factor_row, thread < rows);
    if constexpr (Epilogue == GemmEpilogue::kAdd) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row0 + first + kPass * i;
        const bool mine = thread / 8 + kPass * i < rows && row < args.m;
        // Fetched before the product, to hide the latency behind it.
        const float* z = args.z + static_cast<std::int64_t>(row) * args.ldz + column0 + c;
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
#pragma unroll
          for (int q = 0; q < 2; ++q) {
            old[i][half][q] = make_float4(0, 0, 0, 0);
            if (mine) old[i][half][q] = *reinterpret_cast<const float4*>(z + half * 64 + q * 32);
          }
        }
      }
    }

    Sum sum[Columns / 2];
    int s = 0, before = 0;
    std::uint32_t parity = 0;
    for (int k = k_begin; k < k_end; ++k) {
      barrier_wait(full + 8 * s, parity);
      const std::uint64_t a_desc = descriptor(base + s * kStage + thread / 128 * 64 * kSliceBytes);
      const std::uint64_t b_desc = descriptor(base + s * kStage + kABytes);
      wgmma_fence();
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        wgmma<Type, Columns>(sum, a_desc + 2 * i, b_desc + 2 * i, k - k_begin + i);
      }
      wgmma_commit();
      if (k > k_begin) {
        wgmma_wait<1>();
        if (lane == 0) barrier_arrive(empty + 8 * before);
      }
      before = s;
      if (++s == stages) {
        s = 0;
        parity ^= 1;
      }
    }
    wgmma_wait<0>();
    named_barrier<kMultipliers>(
        1);  // every warp is done with the ring: the partial sums take its place

    float* partial = reinterpret_cast<float*>(shared + (base - shared_address(shared)));
#pragma unroll
    for (int j = 0; j < Columns / 8; ++j) {
      const int half = j / 8;
      float* to = partial + half * Shape::kRows * kStageFloats +
                  (thread / 32 * 16 + lane / 4) * kStageFloats + j % 8 * 8 + 2 * (lane % 4);
      *reinterpret_cast<float2*>(to) =
          make_float2(static_cast<float>(sum[4 * j]), static_cast<float>(sum[4 * j + 1]));
      *reinterpret_cast<float2*>(to + 8 * kStageFloats) =
          make_float2(static_cast<float>(sum[4 * j + 2]), static_cast<float>(sum[4 * j + 3]));
    }
    if (thread < rows) factors[thread] = row_factor(args, row_parts, factor_row);
    if (parts > 1) {
      __syncwarp();
      cluster_sync();
    } else {
      named_barrier<kMultipliers>(1);
    }

#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (thread / 8 + kPass * i < rows) {  // the same for a whole warp
        const int row = row0 + first + kPass * i;
        const bool inside = row < args.m;
        const float factor = factors[thread / 8 + kPass * i];
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
          const int column = column0 + half * 64 + c;
          float square = 0;
#pragma unroll
          for (int q = 0; q < 2; ++q) {
            const int offset = half * Shape::kRows * kStageFloats +
                               (first + kPass * i) * kStageFloats + c + 32 * q;
            float4 x;
            if (parts > 1) {
              const std::uint32_t address = base + 4 * static_cast<std::uint32_t>(offset);
              x = make_float4(0, 0, 0, 0);
              for (int p = 0; p < parts; ++p) {
                const float4 y = load_partial(address, static_cast<std::uint32_t>(p));
                x.x += y.x;
                x.y += y.y;
                x.z += y.z;
                x.w += y.w;
              }
            } else {
              x = *reinterpret_cast<const float4*>(partial + offset);
            }
            x.x *= factor;
            x.y *= factor;
            x.z *= factor;
            x.w *= factor;
            if (args.w_scale != nullptr) {
              const float2* scales =
                  reinterpret_cast<const float2*>(args.w_scale + column + 32 * q);
              const float2 low = __ldg(scales), high = __ldg(scales + 1);
              x.x *= low.x;
              x.y *= low.y;
              x.z *= high.x;
              x.w *= high.y;
            }
            if constexpr (Epilogue == GemmEpilogue::kGelu) {
              x = make_float4(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w));
            }
            if constexpr (Epilogue == GemmEpilogue::kAdd) {
              const float4 before_add = old[i][half][q];
              x.x += before_add.x;
              x.y += before_add.y;
              x.z += before_add.z;
              x.w += before_add.w;
              square = fmaf(x.x, x.x, square);
              square = fmaf(x.y, x.y, square);
              square = fmaf(x.z, x.z, square);
              square = fmaf(x.w, x.w, square);
              if (inside) {
                *reinterpret_cast<float4*>(args.z + static_cast<std::int64_t>(row) * args.ldz +
                                           column + 32 * q) = x;
              }
            }
            if (inside) {
              *reinterpret_cast<uint2*>(
                  args.out_pointer + static_cast<std::int64_t>(row) * args.ldo + column + 32 * q) =
                  make_uint2(pack(x.x, x.y), pack(x.z, x.w));
            }
          }
          if constexpr (Epilogue == GemmEpilogue::kAdd) {
            square += __shfl_xor_sync(0xFFFFFFFF, square, 1);
            square += __shfl_xor_sync(0xFFFFFFFF, square, 2);
            square += __shfl_xor_sync(0xFFFFFFFF, square, 4);
            if (inside && thread % 8 == 0) {
              args.square_out[static_cast<std::int64_t>(row) * (args.n / 64) + column0 / 64 +
                              half] = square;
            }
          }
        }
      }
    }
    if (parts > 1) {
      __syncwarp();
      cluster_sync();  // the others have read this block's partial sums
    }
  }
#else
  __trap();
#endif
}

// ---- Host --------------------------------------------------------------------------------------

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

EncodeTiled encoder() {
  static const EncodeTiled found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult status{};
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &status);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &status);
#endif
    if (error != cudaSuccess || status != cudaDriverEntryPointSuccess) entry = nullptr;
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return found;
}

// Boxes of `box_rows` rows and 128 bytes of a [rows, columns] matrix, swizzled by 128 bytes.
bool encode(CUtensorMap* map, const void* data, int bytes, std::int64_t rows, std::int64_t columns,
            std::int64_t stride, int box_rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride * bytes)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(kSliceBytes / bytes),
                             static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  return encoder()(map,
                   bytes == 4   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                   : bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                : CU_TENSOR_MAP_DATA_TYPE_UINT8,
                   2, const_cast<void*>(data), sizes, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

constexpr int kMaxDevices = 64;

// Multiprocessors of the current device, asked once each.
cudaError_t processors_of(int device, int* count) {
  static std::atomic<int> known[kMaxDevices];
  *count = device < kMaxDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (*count > 0) return cudaSuccess;
  const cudaError_t error = cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess && device < kMaxDevices) known[device].store(*count);
  return error;
}

struct Launch {
  KernelArgs args;
  dim3 grid;
  int threads, shared, cluster_x, cluster_z;
  bool pdl;
  int device;
  cudaStream_t stream;
};

template <auto Kernel>
cudaError_t launch(const Launch& how) {
  static std::atomic<bool> ready[kMaxDevices];
  if (how.device >= kMaxDevices || !ready[how.device].load(std::memory_order_acquire)) {
    const cudaError_t error =
        cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
    if (error != cudaSuccess) return error;
    if (how.device < kMaxDevices) ready[how.device].store(true, std::memory_order_release);
  }
  cudaLaunchAttribute attributes[2];
  unsigned count = 0;
  if (how.cluster_x * how.cluster_z > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(how.cluster_x);
    attributes[count].val.clusterDim.y = 1;
    attributes[count].val.clusterDim.z = static_cast<unsigned>(how.cluster_z);
    ++count;
  }
  if (how.pdl) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(how.shared);
  config.stream = how.stream;
  config.attrs = attributes;
  config.numAttrs = count;
  return cudaLaunchKernelEx(&config, Kernel, how.args);
}

template <GemmType Type, GemmEpilogue Epilogue>
cudaError_t launch_config(int config, const Launch& how) {
  switch (config) {
    case kPair128x128:
      return launch<pair_kernel<Type, Epilogue, 2, 1>>(how);
    case kPair128x128Twin:
      return launch<pair_kernel<Type, Epilogue, 2, 2>>(how);
    case kPair64x128:
      return launch<pair_kernel<Type, Epilogue, 1, 1>>(how);
    case kPair64x128Twin:
      return launch<pair_kernel<Type, Epilogue, 1, 2>>(how);
    case kPair64x128Chain:
      if constexpr (Type == GemmType::kBf16) {
        return launch<pair_kernel<Type, Epilogue, 1, 1, true>>(how);
      }
      return cudaErrorInvalidValue;
    case kSmall64x64:
      return launch<small_kernel<Type, Epilogue, 1, 64>>(how);
    case kSmall128x128:
      return launch<small_kernel<Type, Epilogue, 2, 128>>(how);
    default:
      return cudaErrorInvalidValue;
  }
}

template <GemmType Type>
cudaError_t launch_epilogue(GemmEpilogue epilogue, int config, const Launch& how) {
  switch (epilogue) {
    case GemmEpilogue::kStore:
      return launch_config<Type, GemmEpilogue::kStore>(config, how);
    case GemmEpilogue::kGelu:
      return launch_config<Type, GemmEpilogue::kGelu>(config, how);
    case GemmEpilogue::kAdd:
      return launch_config<Type, GemmEpilogue::kAdd>(config, how);
  }
  return cudaErrorInvalidValue;
}

bool aligned(const void* p, std::uintptr_t bytes) {
  return p != nullptr && reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}

bool valid(const GemmSm90Args& args, GemmEpilogue epilogue) {
  const int bytes = args.type == GemmType::kBf16 ? 2 : 1;
  bool good = args.m > 0 && args.n > 0 && args.k > 0 && args.n % 64 == 0 && args.k % 64 == 0 &&
              aligned(args.a, 16) && aligned(args.w, 16) && args.lda * bytes % 16 == 0 &&
              args.lda >= args.k;
  good = good && (args.square == nullptr || args.square_parts > 0);
  good = good && (args.square == nullptr || args.square_parts % 4 != 0 || aligned(args.square, 16));
  good = good && (args.w_scale == nullptr || aligned(args.w_scale, 8));
  if (epilogue == GemmEpilogue::kAdd) {
    return good && aligned(args.z, 16) && args.ldz % 4 == 0 && args.ldz >= args.n &&
           aligned(args.narrow, 16) && args.ld_narrow % 8 == 0 && args.ld_narrow >= args.n &&
           args.square_out != nullptr;
  }
  return good && aligned(args.out, 16) && args.ldo % 8 == 0 && args.ldo >= args.n;
}

struct Choice {
  int config, split;
};

// By timings on an H200 of the layers of the models, D = 256, 512 and 768.
Choice choose(const GemmSm90Args& args, GemmEpilogue epilogue, int k_tiles, int processors) {
  const int rows64 = ceil_div(args.m, 64);
  const int columns128 = ceil_div(args.n, 128);
  const bool one_wave = rows64 * columns128 <= processors;
  if (epilogue != GemmEpilogue::kAdd) return {one_wave ? kPair64x128 : kPair128x128, 1};
  const int tiles = rows64 * (args.n / 64);
  if (tiles <= processors) {
    const bool deep = k_tiles >= 16 || (tiles <= 16 && k_tiles >= 4);
    if (deep && 4 * tiles <= processors) return {kSmall64x64, 4};
    if (k_tiles >= 32 && args.n % 128 == 0 &&
        4 * ceil_div(args.m, 128) * columns128 <= processors) {
      return {kSmall128x128, 4};
    }
    return {kSmall64x64, 1};
  }
  // z moves faster by tiles of 64 rows, A and W by tiles of 128.
  return {one_wave || k_tiles < 32 ? kPair64x128 : kPair128x128, 1};
}

}  // namespace

cudaError_t gemm_sm90(const GemmSm90Args& args, GemmEpilogue epilogue, cudaStream_t stream) {
  if (!valid(args, epilogue)) return cudaErrorInvalidValue;
  if (encoder() == nullptr) return cudaErrorNotSupported;
  int device = 0, processors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) error = processors_of(device, &processors);
  if (error != cudaSuccess) return error;

  const int bytes = args.type == GemmType::kBf16 ? 2 : 1;
  const int k_tiles = ceil_div(args.k * bytes, kSliceBytes);
  Choice choice = choose(args, epilogue, k_tiles, processors);
  // Sums of integers have no order.
  if (args.chains && args.type == GemmType::kBf16) choice = {kPair64x128Chain, 1};
  if (args.config >= 0) choice = {args.config, 1};
  if (args.split > 0) choice.split = args.split;
  const bool small = choice.config == kSmall64x64 || choice.config == kSmall128x128;
  if (choice.config >= kGemmSm90Configs || choice.split > 8 || 64 % choice.split != 0 ||
      choice.split > k_tiles || args.stages > 8 || (choice.split > 1 && !small)) {
    return cudaErrorInvalidValue;
  }
  const int columns = choice.config == kSmall64x64 ? 64 : 128;
  // A tile of 128 columns of the small kernel has no clip at its right edge.
  if (choice.config == kSmall128x128 && args.n % 128 != 0) return cudaErrorInvalidValue;
  const bool twin = choice.config == kPair128x128Twin || choice.config == kPair64x128Twin;
  const bool half_rows = choice.config == kPair64x128 || choice.config == kPair64x128Twin ||
                         choice.config == kPair64x128Chain || choice.config == kSmall64x64;
  const int tile_rows = half_rows ? 64 : 128;

  Launch how{};
  how.pdl = args.pdl;
  how.device = device;
  how.stream = stream;
  how.cluster_x = twin ? 2 : 1;
  how.cluster_z = choice.split;
  KernelArgs& to = how.args;
  to.m = args.m;
  to.n = args.n;
  to.k_tiles = k_tiles;
  to.n_tiles = ceil_div(args.n, columns);
  to.square_parts = args.square_parts;
  to.k_elements = static_cast<float>(args.k);
  to.eps = args.eps;
  to.square = args.square;
  to.a_scale = args.a_scale;
  to.w_scale = args.w_scale;
  const bool add = epilogue == GemmEpilogue::kAdd;
  to.out_pointer = add ? args.narrow : args.out;
  to.ldo = add ? args.ld_narrow : args.ldo;
  to.z = args.z;
  to.ldz = args.ldz;
  to.square_out = args.square_out;
  if (!encode(&to.a, args.a, bytes, args.m, args.k, args.lda, tile_rows) ||
      !encode(&to.w, args.w, bytes, args.n, args.k, args.k, columns / how.cluster_x) ||
      !encode(&to.out, to.out_pointer, 2, args.m, args.n, to.ldo, tile_rows) ||
      (add && !encode(&to.z_map, args.z, 4, args.m, args.n, args.ldz, tile_rows))) {
    return cudaErrorInvalidValue;
  }

  const int m_tiles = ceil_div(args.m, tile_rows);
  if (small) {
    const int slices = ceil_div(k_tiles, choice.split);
    const int blocks = m_tiles * to.n_tiles * choice.split;
    // More blocks than multiprocessors: a shorter ring, so that two or three share one. Clusters:
    // room for two blocks, or the last clusters find no place together.
    int stages = blocks > processors ? 4 : choice.split > 1 ? 6 : 8;
    if (args.stages > 0) stages = args.stages;
    stages = std::min({stages, slices, tile_rows == 64 ? 8 : 6});
    to.stages = stages;
    how.shared =
        tile_rows == 64 ? SmallShape<1, 64>::shared(stages) : SmallShape<2, 128>::shared(stages);
    how.threads = tile_rows == 64 ? SmallShape<1, 64>::kThreads : SmallShape<2, 128>::kThreads;
    how.grid = dim3(static_cast<unsigned>(to.n_tiles), static_cast<unsigned>(m_tiles),
                    static_cast<unsigned>(choice.split));
  } else {
    to.tiles = ceil_div(m_tiles, how.cluster_x) * to.n_tiles;
    how.shared = tile_rows == 128 ? PairShape<2>::kShared : PairShape<1>::kShared;
    how.threads = kPairThreads;
    const int workers = std::min(to.tiles, processors / how.cluster_x);
    how.grid = dim3(static_cast<unsigned>(workers * how.cluster_x));
  }
  switch (args.type) {
    case GemmType::kBf16:
      return launch_epilogue<GemmType::kBf16>(epilogue, choice.config, how);
    case GemmType::kE4m3:
      return launch_epilogue<GemmType::kE4m3>(epilogue, choice.config, how);
    case GemmType::kInt8:
      return launch_epilogue<GemmType::kInt8>(epilogue, choice.config, how);
  }
  return cudaErrorInvalidValue;
}

bool gemm_sm90_supported(int device) {
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    return false;
  }
  if (major != 9 || minor != 0 || encoder() == nullptr) return false;
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes,
                               small_kernel<GemmType::kBf16, GemmEpilogue::kStore, 1, 64>) ==
             cudaSuccess &&
         attributes.binaryVersion == 90;
}

}  // namespace cortex::cuda
