#pragma once

#include "kernels/cuda/gemm_sm90_epilogue.cuh"

/// The usual product. Persistent; one warp of the first warpgroup fetches tiles of A and W through
/// tensor maps into a ring in shared memory, the two other warpgroups take output tiles in turn.
/// The ring carries their tiles in order, so while one warpgroup multiplies, the other is in its
/// epilogue: the tensor cores see one product after the other.
namespace cortex::cuda::sm90 {

constexpr int kPairThreads = 384;
constexpr int kChainSlices = 4;  // of K, that `chains` sums apart: 256 in bf16
// Slices of W that are fetched before the kernel before is done. More of them would stand in the
// way of the first of A.
constexpr int kEarlySlices = 2;

template <int Blocks>  // Blocks * 64 rows of a tile
struct PairShape {
  static constexpr int kRows = 64 * Blocks;
  static constexpr int kColumns = 128;
  static constexpr int kABytes = kRows * kSliceBytes;
  static constexpr int kBBytes = kColumns * kSliceBytes;
  static constexpr int kStage = kABytes + kBBytes;
  static constexpr int kHalf = kHalfBytes<Blocks>;
  static constexpr int kOut = 2 * kHalf;          // of each warpgroup
  static constexpr int kBarriers = 512;           // bytes
  static constexpr int kFactors = 4 * kRows * 4;  // a factor and a power of two a row, twice
  static constexpr int kStages = (kSharedLimit - 1024 - kBarriers - kFactors - 2 * kOut) / kStage;
  static constexpr int kShared = 1024 + kStages * kStage + 2 * kOut + kBarriers + kFactors;
  static_assert(kStages * 16 + 16 <= kBarriers && kShared <= kSharedLimit && 2 * kHalf <= kStage);
};

// A tile of 64 rows leaves registers for the scales of all its columns, fetched before the product.
template <GemmType Type, int Blocks>
constexpr bool kScalesAhead = kScaled<Type>&& Blocks == 1;

// One warpgroup's tile, out of its accumulators. `scale`: of both halves, or room for one.
template <GemmType Type, GemmEpilogue Epilogue, int Blocks, int Scales, class T>
__device__ __forceinline__ void pair_epilogue(const KernelArgs& args, T (&sum)[Blocks][64],
                                              const std::uint32_t (&z)[2], float2 (&old)[2][2][4],
                                              const float* factors, const float* powers,
                                              float2 (&scale)[Scales][8], std::uint32_t staging,
                                              int group, int row0, int column0, int thread) {
  // The tile stored last has left the staging buffer.
  if (thread == 0 && !kStagedZ<Epilogue>) store_wait();
  named_barrier(1 + group);
  float factor[Blocks][2];
  take_factors(factor, factors, thread);
  float squares[2][Blocks][2] = {};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int column = column0 + half * 64;
    if (column >= args.n) break;
    if (kScaled<Type> && Scales == 1 && args.w_scale != nullptr)
      take_scales(scale[0], args.w_scale + column, thread);
    finish_half<Type, Epilogue, Blocks, false>(
        args, sum, half, z[half], old, factor, powers, scale[half % Scales], squares[half],
        staging + half * PairShape<Blocks>::kHalf, group, row0, column, thread);
  }
  if constexpr (Epilogue == GemmEpilogue::kAdd || Epilogue == GemmEpilogue::kAddNarrow)
    store_squares<Blocks>(args, squares, row0, column0, thread);
}

// `Chain`: K is summed in chains of kChainSlices slices, the chains first to last, as the kernels
// of linear.cu do; else in one. `Twins`: blocks of a cluster (1 or 2). Twins work on tiles one
// below the other, so they share W: each fetches half of it for both.
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
  const std::uint32_t z_full = empty + 8 * kStages;  // one a consumer
  float* factors =
      reinterpret_cast<float*>(shared + (full - shared_address(shared)) + Shape::kBarriers);

  const int group = static_cast<int>(threadIdx.x) / 128;
  const std::uint32_t rank = Twins > 1 ? cluster_rank() : 0;
  const int worker = static_cast<int>(blockIdx.x) / Twins;
  const int workers = static_cast<int>(gridDim.x) / Twins;

  if (threadIdx.x == 0) {
    prefetch_map(&args.w);
    prefetch_map(&args.a);
    if constexpr (Epilogue != GemmEpilogue::kGeluE4m3) prefetch_map(&args.out);
    if constexpr (kRingZ<Epilogue, Blocks>) prefetch_map(&args.z_map);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * Twins);  // a warp of the consumer, here and at the twin
    }
    barrier_init(z_full, 1);
    barrier_init(z_full + 8, 1);
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
      const int early = min(kEarlySlices, args.k_tiles);
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
    float* const own_powers = factors + (2 + consumer) * Shape::kRows;
    const std::uint32_t staging = out_base + consumer * Shape::kOut;
    const std::uint32_t own_z = z_full + 8 * consumer;
    std::uint32_t z_parity = 0;
    const auto prepare_row = [&](const RowParts& parts, int row) {
      if constexpr (kStagedZ<Epilogue>) {
        own_factors[thread] = parts.scale;
        if (args.narrow8 != nullptr) own_powers[thread] = row_power(args, parts);
      } else {
        own_factors[thread] = row_factor(args, parts, row);
      }
    };
    int tile = worker + consumer * workers;
    if (tile < args.tiles && thread < Shape::kRows) {
      const int row = first_row(tile) + thread;
      prepare_row(load_row(args, row, true), row);
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
      float2 scale[kScalesAhead<Type, Blocks> ? 2 : 1][8];
      if constexpr (kScalesAhead<Type, Blocks>) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (args.w_scale != nullptr && column0 + half * 64 < args.n)
            take_scales(scale[half], args.w_scale + column0 + half * 64, thread);
        }
      }
      if constexpr (kStagedZ<Epilogue>) {
        if (thread == 0) {
          store_wait();  // the tile stored last has left the staging buffer
          const int halves = column0 + 64 < args.n ? 2 : 1;
          barrier_expect(own_z, halves * Shape::kHalf);
          for (int half = 0; half < halves; ++half) {
            load_tile(staging + half * Shape::kHalf, &args.out, own_z, column0 + half * 64, row0);
          }
        }
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
      constexpr bool kEarly =
          Epilogue != GemmEpilogue::kAdd && Epilogue != GemmEpilogue::kAddNarrow;
      if constexpr (kStagedZ<Epilogue>) {
        barrier_wait(own_z, z_parity);
        z_parity ^= 1;
        if (args.narrow8 != nullptr && column0 == 0 && thread < Shape::kRows &&
            row0 + thread < args.m) {
          args.narrow8_row_scale[row0 + thread] = 1.0f / own_powers[thread];
        }
      }
      RowParts ahead;
      if constexpr (kEarly) ahead = load_row(args, next_row, more);
      pair_epilogue<Type, Epilogue, Blocks>(args, sum, z, old, own_factors, own_powers, scale,
                                            staging, consumer, row0, column0, thread);
      if constexpr (!kEarly) ahead = load_row(args, next_row, more);
      if (more) prepare_row(ahead, next_row);
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

}  // namespace cortex::cuda::sm90
