#pragma once

#include <cuda.h>

#include <cstddef>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm_sm90.h"

/// What the products of sm_90a share: the instructions of the copy engine and the tensor cores, and
/// the factors of rows.
///
/// A slice of K is 128 bytes of every row, for every element type: the swizzle's width, and four
/// steps of wgmma.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)
#define CORTEX_SM90A 1
#else
#define CORTEX_SM90A 0
#pragma nv_diag_suppress 177  // without the kernels' bodies, nothing calls the functions below
#endif

namespace cortex::cuda::sm90 {

constexpr int kSliceBytes = 128;      // of one row of A or W, in one stage
constexpr int kSharedLimit = 232448;  // bytes a block may have

struct KernelArgs {
  // `out`: the bf16 result, of kAdd the narrow copy. `z_map`: what x is added to.
  CUtensorMap a, w, out, z_map;
  int m, n, k_tiles, n_tiles, tiles, stages;
  int square_parts;
  float k_elements, eps, a_factor;
  const float* square;
  const float* a_scale;
  const float* w_scale;
  __nv_bfloat16* out_pointer;
  std::int64_t ldo;
  float* z;
  std::int64_t ldz;
  const __nv_bfloat16* onto;  // kAddNarrow: as z_map
  std::int64_t ld_onto;
  int onto_rows;  // after which it repeats
  float* square_out;
  std::uint8_t* narrow8;
  std::int64_t ld_narrow8;
  float narrow8_scale;
  float* narrow8_row_scale;
};

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

/// The same place in block `rank` of the cluster.
__device__ __forceinline__ std::uint32_t address_at(std::uint32_t address, std::uint32_t rank) {
  std::uint32_t there;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

/// Into shared memory of another block, whose barrier counts the bytes.
__device__ __forceinline__ void copy_to(std::uint32_t to, std::uint32_t from, int bytes,
                                        std::uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, "
      "[%3];" ::"r"(to),
      "r"(from), "r"(bytes), "r"(barrier)
      : "memory");
}
/// As barrier_wait(), for what other blocks of the cluster stored.
__device__ __forceinline__ void cluster_wait(std::uint32_t barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n"
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
#define CORTEX_REGS_64                                                                           \
  CORTEX_REGS_32                                                                                 \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define CORTEX_REGS_96                                                                           \
  CORTEX_REGS_64                                                                                 \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, " \
  "%82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define CORTEX_REGS_128                                                                        \
  CORTEX_REGS_96                                                                               \
  ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, "   \
  "%111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, " \
  "%126, %127"

#define CORTEX_D4(c, i) c(d[i]), c(d[i + 1]), c(d[i + 2]), c(d[i + 3])
#define CORTEX_D16(c, i) \
  CORTEX_D4(c, i), CORTEX_D4(c, i + 4), CORTEX_D4(c, i + 8), CORTEX_D4(c, i + 12)
#define CORTEX_D32(c, i) CORTEX_D16(c, i), CORTEX_D16(c, i + 16)
#define CORTEX_OPERANDS_32(c) CORTEX_D32(c, 0)
#define CORTEX_OPERANDS_64(c) CORTEX_OPERANDS_32(c), CORTEX_D32(c, 32)
#define CORTEX_OPERANDS_96(c) CORTEX_OPERANDS_64(c), CORTEX_D32(c, 64)
#define CORTEX_OPERANDS_128(c) CORTEX_OPERANDS_96(c), CORTEX_D32(c, 96)

#define CORTEX_WGMMA(shape, types, count, da, db, add, tail, c)                                    \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\nwgmma.mma_async.sync.aligned." shape \
               "." types " {" CORTEX_REGS_##count "}, " da ", " db ", p" tail ";\n}\n"             \
               : CORTEX_OPERANDS_##count(c)                                                        \
               : "l"(a), "l"(b), "r"(accumulate))

// d (+)= A[64, 32 bytes] * B[N, 32 bytes]^T, both in shared memory.
template <GemmType Type, int N, class T>
__device__ __forceinline__ void wgmma(T (&d)[N / 2], std::uint64_t a, std::uint64_t b,
                                      int accumulate) {
  static_assert(N == 64 || N == 128 || N == 192 || N == 256);
  if constexpr (N == 64 && Type == GemmType::kBf16) {
    CORTEX_WGMMA("m64n64k16", "f32.bf16.bf16", 32, "%32", "%33", "%34", ", 1, 1, 0, 0", "+f");
  } else if constexpr (N == 64 && Type == GemmType::kE4m3) {
    CORTEX_WGMMA("m64n64k32", "f32.e4m3.e4m3", 32, "%32", "%33", "%34", ", 1, 1", "+f");
  } else if constexpr (N == 64) {
    CORTEX_WGMMA("m64n64k32", "s32.s8.s8", 32, "%32", "%33", "%34", "", "+r");
  } else if constexpr (N == 128 && Type == GemmType::kBf16) {
    CORTEX_WGMMA("m64n128k16", "f32.bf16.bf16", 64, "%64", "%65", "%66", ", 1, 1, 0, 0", "+f");
  } else if constexpr (N == 128 && Type == GemmType::kE4m3) {
    CORTEX_WGMMA("m64n128k32", "f32.e4m3.e4m3", 64, "%64", "%65", "%66", ", 1, 1", "+f");
  } else if constexpr (N == 128) {
    CORTEX_WGMMA("m64n128k32", "s32.s8.s8", 64, "%64", "%65", "%66", "", "+r");
  } else if constexpr (N == 192 && Type == GemmType::kBf16) {
    CORTEX_WGMMA("m64n192k16", "f32.bf16.bf16", 96, "%96", "%97", "%98", ", 1, 1, 0, 0", "+f");
  } else if constexpr (N == 192 && Type == GemmType::kE4m3) {
    CORTEX_WGMMA("m64n192k32", "f32.e4m3.e4m3", 96, "%96", "%97", "%98", ", 1, 1", "+f");
  } else if constexpr (N == 192) {
    CORTEX_WGMMA("m64n192k32", "s32.s8.s8", 96, "%96", "%97", "%98", "", "+r");
  } else if constexpr (Type == GemmType::kBf16) {
    CORTEX_WGMMA("m64n256k16", "f32.bf16.bf16", 128, "%128", "%129", "%130", ", 1, 1, 0, 0", "+f");
  } else if constexpr (Type == GemmType::kE4m3) {
    CORTEX_WGMMA("m64n256k32", "f32.e4m3.e4m3", 128, "%128", "%129", "%130", ", 1, 1", "+f");
  } else {
    CORTEX_WGMMA("m64n256k32", "s32.s8.s8", 128, "%128", "%129", "%130", "", "+r");
  }
}

/// d (+)= A [64, 16] B, B being [16, 64] in shared memory or the transpose of what is there, and A
/// in registers: words (row 16 w + g, columns 2 t), (row + 8, the same), (row, columns 2 t + 8),
/// (row + 8, ..) of lane 4 g + t of warp w.
template <bool Transposed>
__device__ __forceinline__ void wgmma_64(float (&d)[32], const std::uint32_t (&a)[4],
                                         std::uint64_t b, int accumulate) {
  asm volatile(
      "{\n.reg .pred p;\nsetp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" CORTEX_REGS_32
      "}, {%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
      : CORTEX_OPERANDS_32("+f")
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate),
        "n"(Transposed ? 0 : 1));
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

/// What store_matrices of the same address stored.
__device__ __forceinline__ void load_matrices(std::uint32_t address, std::uint32_t (&r)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// Two e4m3 in the low half; what is over 448 becomes 448.
__device__ __forceinline__ std::uint32_t pack_e4m3(float low, float high) {
  std::uint16_t both = 0;
#if CORTEX_SM90A
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(both) : "f"(high), "f"(low));
#endif
  return both;
}

__device__ __forceinline__ std::uint32_t pack_e4m3(__half2 pair) {
  std::uint16_t both = 0;
#if CORTEX_SM90A
  asm("cvt.rn.satfinite.e4m3x2.f16x2 %0, %1;"
      : "=h"(both)
      : "r"(*reinterpret_cast<const std::uint32_t*>(&pair)));
#endif
  return both;
}

/// Word i of lane t of four neighbours becomes word t of lane i.
__device__ __forceinline__ void transpose_words(std::uint32_t& w0, std::uint32_t& w1,
                                                std::uint32_t& w2, std::uint32_t& w3) {
  const int t = static_cast<int>(threadIdx.x) % 4;
  const auto swap = [&](std::uint32_t& low, std::uint32_t& high, int bit) {
    const std::uint32_t got = __shfl_xor_sync(0xFFFFFFFF, t & bit ? low : high, bit);
    if (t & bit)
      low = got;
    else
      high = got;
  };
  swap(w0, w1, 1);
  swap(w2, w3, 1);
  swap(w0, w2, 2);
  swap(w1, w3, 2);
}

/// Lane t of four neighbours holds columns 8 j + 2 t and the next of a row of 64, j = 0 to 7: bytes
/// of pair j are half j % 2 of word j / 2. Returns columns 16 t to 16 t + 15.
__device__ __forceinline__ uint4 gather_bytes(std::uint32_t (&w)[4]) {
  transpose_words(w[0], w[1], w[2], w[3]);
  return make_uint4(__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[2], w[3], 0x5410),
                    __byte_perm(w[0], w[1], 0x7632), __byte_perm(w[2], w[3], 0x7632));
}

__device__ __forceinline__ std::uint32_t pack(float low, float high) {
  std::uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

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
  parts.scale = args.a_factor;
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
  if (args.a_scale != nullptr) parts.scale *= args.a_scale[row];
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

/// The power of two that brings a row of `columns` and this sum of squares to an rms in [2, 4):
/// e4m3 then has room for values 112 times as large.
__device__ __forceinline__ float row_power(float sum, float columns) {
  const int exponent = (__float_as_int(sum / columns) >> 23) - 127;
  const int half = max(-40, min(40, exponent >> 1));
  return __int_as_float((124 - half) << 23);
}
__device__ __forceinline__ float row_power(const KernelArgs& args, const RowParts& parts) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 16; ++i) sum += parts.square[i];
  return row_power(sum, static_cast<float>(args.n));
}

}  // namespace cortex::cuda::sm90
