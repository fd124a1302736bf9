#pragma once

#include <type_traits>

#include "kernels/cuda/gemm_sm90_epilogue.cuh"
#include "kernels/cuda/gemm_sm90_pair.cuh"
#include "kernels/cuda/latent_attention_sm90.h"
#include "kernels/cuda/ragged_attention_sm90.cuh"

/// Projection and attention of one head and window by a cluster of blocks.
///
/// A block has 64 latents a warpgroup that multiplies: it computes their q, k and v as a product of
/// 192 columns, by a ring of slices as in wide_kernel, and keeps q in registers. k and v go, in
/// bf16, into its own shared memory and from there to the others of the cluster, by tiles of 64
/// latents. Every warpgroup then attends with its own q to all tiles, those of its block first. The
/// product of the next head is issued slice by slice between the softmaxes of this one, so that the
/// tensor cores have work meanwhile.
namespace cortex::cuda::latents {

using namespace sm90;
using attention::kTileBytes;  // of k or v of 64 latents, swizzled

constexpr int kHeadDim = kLatentHeadDim;
constexpr int kColumns = 3 * kHeadDim;
constexpr int kGroups = 2;  // warpgroups that multiply
constexpr int kRows = 64 * kGroups;
constexpr int kThreads = 128 * (1 + kGroups);
constexpr int kRowThreads = 96;  // of the warpgroup that fetches

/// `Ranks`: blocks of a cluster.
template <GemmType Type, int Ranks>
struct Shape {
  static constexpr int kTiles = kGroups * Ranks;
  static constexpr int kABytes = kRows * kSliceBytes;
  static constexpr int kStage = kABytes + kColumns * kSliceBytes;
  static constexpr int kKeys = kTiles * 2 * kTileBytes;
  static constexpr int kFactors = (kRows + kColumns) * 4;
  static constexpr int kBarriers = 256;
  static constexpr int kRest = kKeys + kFactors + kBarriers;
  static constexpr int kMostStages = (kSharedLimit - kRest) / kStage;
  static constexpr int kStages = kMostStages < 8 ? kMostStages : 8;
  static constexpr int kShared = kStages * kStage + kRest;
  /// Slices of the next product beside the softmax of a tile. Two stages are then filled anew.
  static constexpr int kBeside = Type == GemmType::kBf16 && kStages > 3 ? 2 : 1;
  static_assert(kStages >= 3 && 8 * (2 * kStages + kTiles + 3) <= kBarriers);
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

template <GemmType Type, int Ranks>
__global__ __launch_bounds__(kThreads,
                             1) void project_and_attend(const __grid_constant__ KernelArgs args) {
#if CORTEX_SM90A
  using S = Shape<Type, Ranks>;
  using Sum = typename Traits<Type>::Sum;
  constexpr int kStages = S::kStages;
  extern __shared__ __align__(1024) unsigned char shared[];
  const std::uint32_t base = shared_address(shared);
  const std::uint32_t keys = base + kStages * S::kStage;  // k and v of tile after tile
  float* const factors = reinterpret_cast<float*>(shared + kStages * S::kStage + S::kKeys);
  float* const scales = factors + kRows;
  const std::uint32_t full = shared_address(scales + kColumns);
  const std::uint32_t empty = full + 8 * kStages;
  const std::uint32_t here = empty + 8 * kStages;   // a tile of k and v
  const std::uint32_t room = here + 8 * S::kTiles;  // nobody reads the tiles before
  const std::uint32_t factors_here = room + 8;      // and the scales
  const std::uint32_t factors_taken = room + 16;

  const int group = static_cast<int>(threadIdx.x) / 128;
  const int rank = Ranks > 1 ? static_cast<int>(cluster_rank()) : 0;
  const int cluster = static_cast<int>(blockIdx.x) / Ranks;
  const int clusters = static_cast<int>(gridDim.x) / Ranks;
  const int heads = args.n / kColumns;
  const int dim = heads * kHeadDim;
  const auto first_row = [&](int work) { return (work / heads * Ranks + rank) * kRows; };

  if (threadIdx.x == 0) {
    if (base % 1024 != 0) __trap();
    prefetch_map(&args.w);
    prefetch_map(&args.a);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * kGroups);  // warps
    }
    for (int tile = 0; tile < S::kTiles; ++tile) barrier_init(here + 8 * tile, 1);
    barrier_init(room, 4 * S::kTiles);
    barrier_init(factors_here, kRowThreads);
    barrier_init(factors_taken, 4 * kGroups);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
    for (int tile = 0; tile < S::kTiles; ++tile)
      if (tile / kGroups != rank) barrier_expect(here + 8 * tile, 2 * kTileBytes);
  }
  __syncwarp();
  if constexpr (Ranks > 1)
    cluster_sync();
  else
    __syncthreads();
  dependents_may_launch();

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
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
    } else if (threadIdx.x >= 128 - kRowThreads) {
      // What the sums of a work are multiplied with.
      const int thread = static_cast<int>(threadIdx.x) - (128 - kRowThreads);
      dependency_wait();
      std::uint32_t turn = 0;
      for (int work = cluster; work < args.tiles; work += clusters, turn ^= 1) {
        barrier_wait(factors_taken, turn ^ 1);
        for (int i = thread; i < kRows; i += kRowThreads) {
          const int row = first_row(work) + i;
          factors[i] = row_factor(args, load_row(args, row, true), row);
        }
        if constexpr (kScaled<Type>) {
          for (int i = thread; i < kColumns; i += kRowThreads)
            scales[i] = args.w_scale[i / kHeadDim * dim + work % heads * kHeadDim + i % kHeadDim];
        }
        barrier_arrive(factors_here);
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = group - 1;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32, warp = thread / 32;
    const int own_tile = rank * kGroups + consumer;
    const std::uint32_t own_keys = keys + own_tile * 2 * kTileBytes;
    const float scale = rsqrtf(static_cast<float>(kHeadDim)) * attention::kLog2E;
    if (consumer == 1) turn_pass(0);
    dependency_wait();
    int s = 0, held = 0;  // slices issued and not given back
    std::uint32_t parity = 0, turn = 0;
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
      ++held;
      if (++s == kStages) {
        s = 0;
        parity ^= 1;
      }
    };
    // All slices but the last `pending` are multiplied.
    const auto release = [&](int pending) {
      for (; held > pending; --held)
        if (lane == 0) barrier_arrive(empty + 8 * ((s + kStages - held) % kStages));
    };
    const auto multiply_rest = [&](int from) {
#pragma unroll 1
      for (int k = from; k < args.k_tiles; ++k) {
        multiply(false);
        wgmma_wait<1>();
        release(1);
      }
    };
    multiply(true);
    multiply_rest(1);
    wgmma_wait<0>();
    release(0);
    for (int work = cluster; work < args.tiles; work += clusters, turn ^= 1) {
      const int row0 = first_row(work) + consumer * 64;
      const int head = work % heads;
      std::uint32_t q[4][4];
      barrier_wait(factors_here, turn);
      float factor[1][2];
      take_factors(factor, factors + consumer * 64, thread);
      take_columns<Type>(q, sum, 0, factor[0], scales);
      // The first time there is room.
      barrier_wait(room, turn ^ 1);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        std::uint32_t words[4][4];
        take_columns<Type>(words, sum, 1 + part, factor[0], scales);
        const std::uint32_t to = own_keys + part * kTileBytes + (warp * 16 + lane % 16) * 128;
#pragma unroll
        for (int i = 0; i < 4; ++i)
          store_matrices(to + ((2 * i + lane / 16) ^ (lane & 7)) * 16, words[i][0], words[i][1],
                         words[i][2], words[i][3]);
      }
      proxy_fence();
      named_barrier(1 + consumer);
      if (lane == 0) barrier_arrive(factors_taken);
      if (thread == 0) {
        const std::uint32_t barrier = here + 8 * own_tile;
        barrier_arrive(barrier);
        for (int i = 1; i < Ranks; ++i) {
          const int to = (rank + i) % Ranks;
          copy_to(address_at(own_keys, to), own_keys, 2 * kTileBytes, address_at(barrier, to));
        }
      }

      float out[32], top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
#pragma unroll
      for (int i = 0; i < 32; ++i) out[i] = 0;
      // The block's own tiles first, the warpgroup's before all.
      const auto tile_of = [&](int i) {
        return (rank + i / kGroups) % Ranks * kGroups + (consumer + i) % kGroups;
      };
      const auto wait_tile = [&](int tile) {
        if constexpr (Ranks > 1) {
          cluster_wait(here + 8 * tile, turn);
          if (thread == 0 && consumer == 0 && tile / kGroups != rank)
            barrier_expect(here + 8 * tile, 2 * kTileBytes);
        } else {
          barrier_wait(here + 8 * tile, turn);
        }
      };
      // `Next`: beside the next product, up to its last slice.
      const auto attend = [&](auto next) {
        constexpr bool kNext = decltype(next)::value;
        constexpr int kBeside = kNext ? S::kBeside : 0, kLast = S::kTiles - 1;
        float scores[32];
        std::uint32_t p[4][4];
#pragma unroll
        for (int j = 0; j < 4; ++j) pin(q[j]);
#pragma unroll
        for (int i = 0; i < S::kTiles; ++i) {
          const int tile = tile_of(i);
          wait_tile(tile);
          const std::uint64_t k = descriptor(keys + tile * 2 * kTileBytes);
          wgmma_fence();
#pragma unroll
          for (int j = 0; j < 4; ++j) wgmma_64<true>(scores, q[j], k + 2 * j, j > 0);
          wgmma_commit();
          const int beside = i < kLast ? kBeside : kBeside - 1;
#pragma unroll
          for (int n = 0; n < kBeside; ++n)
            if (n < beside) multiply(i == 0 && n == 0);
          if (beside == 2)
            wgmma_wait<2>();
          else if (beside == 1)
            wgmma_wait<1>();
          else
            wgmma_wait<0>();
          pin(scores);
          pin(out);
          // Alone, by turns: one's products run beside the other's softmax.
          if constexpr (!kNext) turn_wait(consumer);
          attention::soften(scores, out, top, total, scale);
#pragma unroll
          for (int j = 0; j < 16; ++j) p[j / 4][j % 4] = pack(scores[2 * j], scores[2 * j + 1]);
          pin(out);
#pragma unroll
          for (int j = 0; j < 4; ++j) pin(p[j]);
          if constexpr (kNext) {
            wgmma_wait<0>();
            release(0);
          } else if (i < kLast || consumer == 0) {
            turn_pass(1 - consumer);
          }
          const std::uint64_t v = descriptor(keys + tile * 2 * kTileBytes + kTileBytes);
          wgmma_fence();
#pragma unroll
          for (int j = 0; j < 4; ++j) wgmma_64<false>(out, p[j], v + 128 * j, 1);
          wgmma_commit();
        }
        if constexpr (kNext) multiply(false);
        wgmma_wait<kNext ? 1 : 0>();
        pin(out);
      };
      const auto store = [&] {
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
      };
      // Apart, for the sums of the next product are under way in one of them.
      if (work + clusters < args.tiles) {
        attend(std::true_type());
        store();
        multiply_rest(S::kBeside * S::kTiles);
        wgmma_wait<0>();
        release(0);
      } else {
        attend(std::false_type());
        store();
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
