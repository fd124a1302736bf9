#pragma once

#include "kernels/cuda/gemm_sm90_pair.cuh"

/// Many rows of few inputs. As `pair_kernel`, but a block keeps the 128 rows of W of one column of
/// tiles in shared memory and goes down the rows of A: its ring carries A alone. What limits
/// `pair_kernel` is shared memory's bandwidth, which fetching W again for every tile takes a third
/// of.
namespace cortex::cuda::sm90 {

struct ResidentShape {
  static constexpr int kRows = 128;  // of a tile, and columns
  static constexpr int kSliceOfTile = kRows * kSliceBytes;
  static constexpr int kStages = 4;
  static constexpr int kHalf = PairShape<2>::kHalf;  // 64 columns of the bf16 result
  static constexpr int kBarriers = 8 * (kMostResidentSlices + 2 * kStages);
  static constexpr int kFactors = 2 * kRows * 4;  // of each warpgroup's tile
  static constexpr int kScales = kRows * 4;       // of the columns
  static constexpr int shared(int slices) {
    return 1024 + (slices + kStages) * kSliceOfTile + 2 * kHalf + kBarriers + kFactors + kScales;
  }
};
static_assert(ResidentShape::shared(kMostResidentSlices) <= kSharedLimit);

// Grid: whole columns of tiles, block b works on column b % n_tiles.
template <GemmType Type, GemmEpilogue Epilogue>
__global__ __launch_bounds__(kPairThreads,
                             1) void resident_kernel(const __grid_constant__ KernelArgs args) {
#if CORTEX_SM90A
  using Shape = ResidentShape;
  using Sum = typename Traits<Type>::Sum;
  constexpr int kSlice = Traits<Type>::kSlice;
  constexpr int kStages = Shape::kStages;
  extern __shared__ unsigned char shared[];
  const std::uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  const std::uint32_t ring = base + args.k_tiles * Shape::kSliceOfTile;
  const std::uint32_t out_base = ring + kStages * Shape::kSliceOfTile;
  const std::uint32_t w_full = out_base + 2 * Shape::kHalf;  // one a slice
  const std::uint32_t full = w_full + 8 * kMostResidentSlices;
  const std::uint32_t empty = full + 8 * kStages;
  float* const factors =
      reinterpret_cast<float*>(shared + (w_full - shared_address(shared)) + Shape::kBarriers);
  float* const scales = factors + Shape::kFactors / 4;

  const int group = static_cast<int>(threadIdx.x) / 128;
  const int column0 = static_cast<int>(blockIdx.x) % args.n_tiles * Shape::kRows;
  const int first = static_cast<int>(blockIdx.x) / args.n_tiles;
  const int stride = static_cast<int>(gridDim.x) / args.n_tiles;  // tiles between those of a block

  if (threadIdx.x == 0) {
    prefetch_map(&args.w);
    prefetch_map(&args.a);
    if constexpr (Epilogue != GemmEpilogue::kGeluE4m3) prefetch_map(&args.out);
    for (int k = 0; k < args.k_tiles; ++k) barrier_init(w_full + 8 * k, 1);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4);  // warps of the consumer
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
  }
  if (args.w_scale != nullptr && threadIdx.x >= 128 && threadIdx.x < 256) {
    const int column = static_cast<int>(threadIdx.x) - 128;
    scales[column] = column0 + column < args.n ? args.w_scale[column0 + column] : 0.0f;
  }
  __syncthreads();
  dependents_may_launch();

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      // Weights do not come from the kernel before: they need not wait for it.
      for (int k = 0; k < args.k_tiles; ++k) {
        barrier_expect(w_full + 8 * k, Shape::kSliceOfTile);
        load_tile(base + k * Shape::kSliceOfTile, &args.w, w_full + 8 * k, k * kSlice, column0);
      }
      dependency_wait();
      int s = 0;
      std::uint32_t parity = 1;
      for (int tile = first; tile < args.tiles; tile += stride) {
        for (int k = 0; k < args.k_tiles; ++k) {
          barrier_wait(empty + 8 * s, parity);
          barrier_expect(full + 8 * s, Shape::kSliceOfTile);
          load_tile(ring + s * Shape::kSliceOfTile, &args.a, full + 8 * s, k * kSlice,
                    tile * Shape::kRows);
          if (++s == kStages) {
            s = 0;
            parity ^= 1;
          }
        }
      }
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    const int consumer = group - 1;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    const std::uint32_t staging = out_base + consumer * Shape::kHalf;
    float* const own_factors = factors + consumer * Shape::kRows;
    dependency_wait();
    if (consumer == 1) turn_pass(0);
    bool w_arrived = false;
    int step = consumer * args.k_tiles;
    for (int tile = first + consumer * stride; tile < args.tiles; tile += 2 * stride) {
      const int row0 = tile * Shape::kRows;
      const RowParts parts = load_row(args, row0 + thread, true);
      Sum sum[2][64];
      int s = step % kStages, before = s;
      std::uint32_t parity = static_cast<std::uint32_t>(step / kStages) & 1;
      // A barrier's parity tells two uses of a stage apart, not more: the other warpgroup must have
      // seen its tile arrive before this one looks for the next.
      turn_wait(consumer);
      for (int k = 0; k < args.k_tiles; ++k) {
        if (!w_arrived) barrier_wait(w_full + 8 * k, 0);
        barrier_wait(full + 8 * s, parity);
        const std::uint64_t a_desc = descriptor(ring + s * Shape::kSliceOfTile);
        const std::uint64_t b_desc = descriptor(base + k * Shape::kSliceOfTile);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int block = 0; block < 2; ++block)
            wgmma<Type, 128>(sum[block], a_desc + block * 512 + 2 * i, b_desc + 2 * i, k + i);
        }
        wgmma_commit();
        if (k > 0) {
          wgmma_wait<1>();
          if (lane == 0) barrier_arrive(empty + 8 * before);
        }
        before = s;
        if (++s == kStages) {
          s = 0;
          parity ^= 1;
        }
      }
      w_arrived = true;
      if (tile + stride < args.tiles) turn_pass(1 - consumer);
      wgmma_wait<0>();
      if (lane == 0) barrier_arrive(empty + 8 * before);
      step += 2 * args.k_tiles;

      own_factors[thread] = row_factor(args, parts, row0 + thread);
      float2 nothing[2][2][4];
      float factor[2][2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int column = column0 + half * 64;
        if (column >= args.n) break;
        if constexpr (Epilogue != GemmEpilogue::kGeluE4m3) {
          if (thread == 0) store_wait();  // what was stored last has left the staging buffer
        }
        if (half == 0 || Epilogue != GemmEpilogue::kGeluE4m3) named_barrier(1 + consumer);
        if (half == 0) take_factors(factor, own_factors, thread);
        float2 scale[8];
        float none[2][2];
        if (kScaled<Type> && args.w_scale != nullptr)
          take_scales(scale, shared_address(scales + half * 64), thread);
        finish_half<Type, Epilogue, 2, true>(args, sum, half, 0, nothing, factor, nullptr, scale,
                                             none, staging, consumer, row0, column, thread);
      }
      // All have read the factors before they are those of the next tile.
      if constexpr (Epilogue == GemmEpilogue::kGeluE4m3) named_barrier(1 + consumer);
    }
    if (thread == 0) store_wait();
  }
#else
  __trap();
#endif
}

}  // namespace cortex::cuda::sm90
