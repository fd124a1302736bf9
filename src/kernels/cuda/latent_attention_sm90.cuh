#pragma once

#include "kernels/cuda/gemm_sm90_epilogue.cuh"
#include "kernels/cuda/gemm_sm90_pair.cuh"
#include "kernels/cuda/latent_attention_sm90.h"
#include "kernels/cuda/ragged_attention_sm90.cuh"

/// Projection and attention of one head and window by a cluster of blocks.
///
/// A block has 64 latents a warpgroup that multiplies: it computes their q, k and v as a product of
/// 192 columns, by a ring of slices as in wide_kernel, and keeps q in registers. k and v go, in
/// bf16, into its own shared memory and from there to the others of the cluster, by tiles of 64
/// latents. Every warpgroup then attends with its own q to all tiles, its own first, while the ring
/// fills with what the next head's product begins with.
namespace cortex::cuda::latents {

using namespace sm90;
using attention::kTileBytes;  // of k or v of 64 latents, swizzled

constexpr int kHeadDim = kLatentHeadDim;
constexpr int kColumns = 3 * kHeadDim;

/// `Groups`: warpgroups that multiply; `Ranks`: blocks of a cluster.
template <int Groups, int Ranks>
struct Shape {
  static constexpr int kThreads = 128 * (1 + Groups);
  static constexpr int kRows = 64 * Groups;
  static constexpr int kTiles = Groups * Ranks;
  static constexpr int kABytes = kRows * kSliceBytes;
  static constexpr int kStage = kABytes + kColumns * kSliceBytes;
  static constexpr int kKeys = kTiles * 2 * kTileBytes;
  static constexpr int kFactors = kRows * 4;
  static constexpr int kScales = Groups * kColumns * 4;
  static constexpr int kBarriers = 256;
  static constexpr int kRest = kKeys + kFactors + kScales + kBarriers;
  static constexpr int kStages =
      (kSharedLimit - kRest) / kStage < 8 ? (kSharedLimit - kRest) / kStage : 8;
  static constexpr int kShared = kStages * kStage + kRest;
  static_assert(kStages >= 3 && 8 * (2 * kStages + kTiles + 1) <= kBarriers);
};

#if CORTEX_SM90A

/// 64 columns of a warpgroup's sums, times their factors, as the words of A or of stmatrix: pairs
/// of (row, columns 2 t), (row + 8, the same), (row, 2 t + 8), (row + 8, ..) a 16 columns.
template <GemmType Type, class T>
__device__ __forceinline__ void take_columns(std::uint32_t (&words)[4][4], const T (&sum)[96],
                                             int part, const float (&factor)[2],
                                             const float* scales) {
  float2 scale[8];
  if constexpr (kScaled<Type>)
    take_scales(scale, shared_address(scales + part * kHeadDim),
                static_cast<int>(threadIdx.x) % 128);
#pragma unroll
  for (int i = 0; i < 16; ++i) {  // of 2 columns, in one row
    float2 x = {static_cast<float>(sum[part * 32 + 2 * i]) * factor[i % 2],
                static_cast<float>(sum[part * 32 + 2 * i + 1]) * factor[i % 2]};
    if constexpr (kScaled<Type>) {
      x.x *= scale[i / 2].x;
      x.y *= scale[i / 2].y;
    }
    words[i / 4][i % 4] = pack(x.x, x.y);
  }
}

#endif  // CORTEX_SM90A

template <GemmType Type, int Groups, int Ranks>
__global__ __launch_bounds__(Shape<Groups, Ranks>::kThreads,
                             1) void project_and_attend(const __grid_constant__ KernelArgs args) {
#if CORTEX_SM90A
  using S = Shape<Groups, Ranks>;
  using Sum = typename Traits<Type>::Sum;
  constexpr int kStages = S::kStages;
  extern __shared__ __align__(1024) unsigned char shared[];
  const std::uint32_t base = shared_address(shared);
  const std::uint32_t keys = base + kStages * S::kStage;  // k and v of tile after tile
  float* const factors = reinterpret_cast<float*>(shared + kStages * S::kStage + S::kKeys);
  float* const scales = factors + S::kRows;
  const std::uint32_t full = shared_address(scales + Groups * kColumns);
  const std::uint32_t empty = full + 8 * kStages;
  const std::uint32_t here = empty + 8 * kStages;   // a tile of k and v
  const std::uint32_t room = here + 8 * S::kTiles;  // nobody reads the tiles before

  const int group = static_cast<int>(threadIdx.x) / 128;
  const int rank = Ranks > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int cluster = static_cast<int>(blockIdx.x) / Ranks;
  const int clusters = static_cast<int>(gridDim.x) / Ranks;
  const int heads = args.n / kColumns;
  const int dim = heads * kHeadDim;
  const auto first_row = [&](int work) { return (work / heads * Ranks + rank) * S::kRows; };

  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    prefetch_map(&args.w);
    prefetch_map(&args.a);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * Groups);  // warps
    }
    for (int tile = 0; tile < S::kTiles; ++tile) barrier_init(here + 8 * tile, 1);
    barrier_init(room, 4 * S::kTiles);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
    for (int tile = 0; tile < S::kTiles; ++tile)
      if (tile / Groups != rank) barrier_expect(here + 8 * tile, 2 * kTileBytes);
  }
  if constexpr (Ranks > 1)
    cluster_sync();
  else
    __syncthreads();
  dependents_may_launch();

  if (group == 0) {
    if constexpr (Groups > 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      const auto load_w = [&](int s, int work, int k) {
        const std::uint32_t to = base + s * S::kStage + S::kABytes;
        for (int part = 0; part < 3; ++part)
          load_tile(to + part * kTileBytes, &args.w, full + 8 * s, k * Traits<Type>::kSlice,
                    part * dim + work % heads * kHeadDim);
      };
      // Weights do not come from the kernel before: they need not wait for it.
      const int early = min(kEarlySlices, args.k_tiles);
      for (int s = 0; s < early; ++s) {
        barrier_expect(full + 8 * s, S::kStage);
        load_w(s, cluster, s);
      }
      dependency_wait();
      int step = 0, s = 0;
      std::uint32_t parity = 1;
      for (int work = cluster; work < args.tiles; work += clusters) {
        for (int k = 0; k < args.k_tiles; ++k) {
          if (step++ >= early) {
            barrier_wait(empty + 8 * s, parity);
            barrier_expect(full + 8 * s, S::kStage);
            load_w(s, work, k);
          }
          load_tile(base + s * S::kStage, &args.a, full + 8 * s, k * Traits<Type>::kSlice,
                    first_row(work));
          if (++s == kStages) {
            s = 0;
            parity ^= 1;
          }
        }
      }
    }
  } else {
    if constexpr (Groups > 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = group - 1;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32, warp = thread / 32;
    const int own_tile = rank * Groups + consumer;
    const std::uint32_t own_keys = keys + own_tile * 2 * kTileBytes;
    float* const own_factors = factors + consumer * 64;
    float* const own_scales = scales + consumer * kColumns;
    const float scale = rsqrtf(static_cast<float>(kHeadDim)) * attention::kLog2E;
    const auto release = [&](int s) {
      if (lane == 0) barrier_arrive(empty + 8 * s);
    };
    dependency_wait();
    int s = 0;
    std::uint32_t parity = 0, turn = 0;
    for (int work = cluster; work < args.tiles; work += clusters, turn ^= 1) {
      const int row0 = first_row(work) + consumer * 64;
      const int head = work % heads;
      // Loaded before the product and used after it.
      const RowParts parts = load_row(args, row0 + thread, thread < 64);
      float column_scale[2] = {};
      if constexpr (kScaled<Type>) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = thread + 128 * i;
          if (column < kColumns)
            column_scale[i] =
                args.w_scale[column / kHeadDim * dim + head * kHeadDim + column % kHeadDim];
        }
      }
      Sum sum[kColumns / 2];
      const auto multiply = [&](bool first) {
        barrier_wait(full + 8 * s, parity);
        const std::uint32_t a = base + s * S::kStage;
        const std::uint64_t a_desc = descriptor(a + consumer * 64 * kSliceBytes);
        const std::uint64_t b_desc = descriptor(a + S::kABytes);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i)
          wgmma<Type, kColumns>(sum, a_desc + 2 * i, b_desc + 2 * i, !first || i > 0);
        wgmma_commit();
      };
      const auto advance = [&] {
        if (++s == kStages) {
          s = 0;
          parity ^= 1;
        }
      };
      // The first slice apart, so that the registers of the sums are free until then.
      multiply(true);
      int before = s;
      advance();
#pragma unroll 1
      for (int k = 1; k < args.k_tiles; ++k) {
        multiply(false);
        wgmma_wait<1>();
        release(before);
        before = s;
        advance();
      }
      wgmma_wait<0>();
      release(before);

      if (thread < 64) own_factors[thread] = row_factor(args, parts, row0 + thread);
      if constexpr (kScaled<Type>) {
        own_scales[thread] = column_scale[0];
        if (thread < kColumns - 128) own_scales[thread + 128] = column_scale[1];
      }
      named_barrier(1 + consumer);
      float factor[1][2];
      take_factors(factor, own_factors, thread);
      std::uint32_t q[4][4];
      take_columns<Type>(q, sum, 0, factor[0], own_scales);
      // The first time there is room.
      barrier_wait(room, turn ^ 1);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        std::uint32_t words[4][4];
        take_columns<Type>(words, sum, 1 + part, factor[0], own_scales);
        const std::uint32_t to = own_keys + part * kTileBytes + (warp * 16 + lane % 16) * 128;
#pragma unroll
        for (int i = 0; i < 4; ++i)
          store_matrices(to + ((2 * i + lane / 16) ^ (lane & 7)) * 16, words[i][0], words[i][1],
                         words[i][2], words[i][3]);
      }
      proxy_fence();
      named_barrier(1 + consumer);
      if (thread == 0) {
        const std::uint32_t barrier = here + 8 * own_tile;
        barrier_arrive(barrier);
        for (int i = 1; i < Ranks; ++i) {
          const int to = (rank + i) % Ranks;
          copy_to(address_at(own_keys, to), own_keys, 2 * kTileBytes, address_at(barrier, to));
        }
      }

      float out[32], top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
      float scores[2][32];
#pragma unroll
      for (int i = 0; i < 32; ++i) out[i] = 0;
      // Scores of a tile are under way while those of the one before go through the softmax.
      const auto tile_of = [&](int i) { return (own_tile + i) % S::kTiles; };
      const auto begin_scores = [&](int i) {
        const int tile = tile_of(i);
        if constexpr (Ranks > 1) {
          cluster_wait(here + 8 * tile, turn);
          if (thread == 0 && consumer == 0 && tile / Groups != rank)
            barrier_expect(here + 8 * tile, 2 * kTileBytes);
        } else {
          barrier_wait(here + 8 * tile, turn);
        }
        const std::uint64_t k = descriptor(keys + tile * 2 * kTileBytes);
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < 4; ++j) wgmma_64<true>(scores[i % 2], q[j], k + 2 * j, j > 0);
        wgmma_commit();
      };
#pragma unroll
      for (int j = 0; j < 4; ++j) pin(q[j]);
      begin_scores(0);
#pragma unroll
      for (int i = 0; i < S::kTiles; ++i) {
        wgmma_wait<0>();
        pin(scores[i % 2]);
        pin(out);
        if (i + 1 < S::kTiles) begin_scores(i + 1);
        attention::soften(scores[i % 2], out, top, total, scale);
        std::uint32_t p[4][4];
#pragma unroll
        for (int j = 0; j < 16; ++j)
          p[j / 4][j % 4] = pack(scores[i % 2][2 * j], scores[i % 2][2 * j + 1]);
        pin(out);
#pragma unroll
        for (int j = 0; j < 4; ++j) pin(p[j]);
        const std::uint64_t v = descriptor(keys + tile_of(i) * 2 * kTileBytes + kTileBytes);
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < 4; ++j) wgmma_64<false>(out, p[j], v + 128 * j, 1);
        wgmma_commit();
      }
      wgmma_wait<0>();
      pin(out);
      if (lane < Ranks) {
        if (lane == rank)
          barrier_arrive(room);
        else
          barrier_arrive_at(room, lane);
      }

      Bf16* const to = args.out_pointer + head * kHeadDim;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float weight = total[half];
        weight += __shfl_xor_sync(kAllLanes, weight, 1);
        weight += __shfl_xor_sync(kAllLanes, weight, 2);
        const float inverse = 1.0f / weight;
        std::uint32_t words[2][4];
#pragma unroll
        for (int j = 0; j < 8; ++j)
          words[j % 2][j / 2] =
              pack(out[4 * j + 2 * half] * inverse, out[4 * j + 2 * half + 1] * inverse);
        const std::int64_t row = row0 + warp * 16 + 8 * half + lane / 4;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          std::uint32_t(&w)[4] = words[i];
          transpose_words(w[0], w[1], w[2], w[3]);
          *reinterpret_cast<uint4*>(to + row * args.ldo + 16 * (lane % 4) + 8 * i) = {w[0], w[1],
                                                                                      w[2], w[3]};
        }
      }
    }
  }
  // Nobody leaves while others may write to its memory.
  __syncwarp();
  if constexpr (Ranks > 1) cluster_sync();
#else
  __trap();
#endif
}

}  // namespace cortex::cuda::latents
