#pragma once

#include "kernels/cuda/gemm_sm90_pair.cuh"

/// Many rows. Persistent; tiles of 128 x 256, 128 x 192 or 192 x 192, of which each of two or three
/// warpgroups has 64 rows: an instruction of 256 columns reads a sixth less of shared memory than
/// two of 128, and a tile is fetched in three quarters of the bytes of two of 128 x 128. Shared
/// memory's bandwidth is what limits those (`pair_kernel`). No warpgroup stores while another
/// multiplies; the ring meanwhile fills with the tile that is next.
namespace cortex::cuda::sm90 {

template <int Groups, int Columns>  // warpgroups that multiply, 64 rows each
struct WideShape {
  static constexpr int kThreads = 128 * (1 + Groups);
  static constexpr int kRows = 64 * Groups;
  static constexpr int kColumns = Columns;
  static constexpr int kABytes = kRows * kSliceBytes;
  static constexpr int kStage = kABytes + kColumns * kSliceBytes;
  static constexpr int kHalf = PairShape<1>::kHalf;    // 64 x 64 of the bf16 result
  static constexpr int kPlaces = Groups == 2 ? 2 : 1;  // of results, for each warpgroup
  static constexpr int kOut = kPlaces * kHalf;
  static constexpr int kBarriers = 256;           // bytes
  static constexpr int kFactors = 2 * kRows * 4;  // a factor and a power of two a row
  static constexpr int kStages =
      (kSharedLimit - 1024 - kBarriers - kFactors - Groups * kOut) / kStage;
  static constexpr int kShared = 1024 + kStages * kStage + Groups * kOut + kBarriers + kFactors;
  // z of a warpgroup's rows takes a stage.
  static_assert(kStages >= 3 && kShared <= kSharedLimit && kColumns / 64 * kHalf <= kStage);
};

template <GemmType Type, GemmEpilogue Epilogue, int Groups, int Columns>
__global__ __launch_bounds__(WideShape<Groups, Columns>::kThreads,
                             1) void wide_kernel(const __grid_constant__ KernelArgs args) {
#if CORTEX_SM90A
  static_assert(Epilogue != GemmEpilogue::kAdd);
  using Shape = WideShape<Groups, Columns>;
  using Sum = typename Traits<Type>::Sum;
  constexpr int kSlice = Traits<Type>::kSlice;
  constexpr int kStages = Shape::kStages;
  // Of the columns' weights, in shared memory where no results are staged.
  constexpr bool kSharedScales =
      kScaled<Type> && (kStagedZ<Epilogue> || Epilogue == GemmEpilogue::kGeluE4m3);
  // z of each warpgroup, behind a tile's slices.
  constexpr int kZStages = kStagedZ<Epilogue> ? Groups : 0;
  extern __shared__ unsigned char shared[];
  const std::uint32_t base = (shared_address(shared) + 1023) & ~1023u;
  const std::uint32_t out_base = base + kStages * Shape::kStage;
  const std::uint32_t full = out_base + Groups * Shape::kOut;
  const std::uint32_t empty = full + 8 * kStages;
  float* factors =
      reinterpret_cast<float*>(shared + (full - shared_address(shared)) + Shape::kBarriers);

  const int group = static_cast<int>(threadIdx.x) / 128;
  const int workers = static_cast<int>(gridDim.x);

  if (threadIdx.x == 0) {
    prefetch_map(&args.w);
    prefetch_map(&args.a);
    if constexpr (Epilogue != GemmEpilogue::kGeluE4m3) prefetch_map(&args.out);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(full + 8 * s, 1);
      barrier_init(empty + 8 * s, 4 * Groups);  // warps
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
  }
  __syncthreads();
  dependents_may_launch();

  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) {
      const auto load_w = [&](int s, int tile, int k) {
        load_tile(base + s * Shape::kStage + Shape::kABytes, &args.w, full + 8 * s, k * kSlice,
                  tile % args.n_tiles * Shape::kColumns);
      };
      // Weights do not come from the kernel before: they need not wait for it.
      const int early = min(kEarlySlices, args.k_tiles);
      for (int s = 0; s < early; ++s) {
        barrier_expect(full + 8 * s, Shape::kStage);
        load_w(s, static_cast<int>(blockIdx.x), s);
      }
      dependency_wait();
      int step = 0, s = 0;
      std::uint32_t parity = 1;
      const auto advance = [&] {
        ++step;
        if (++s == kStages) {
          s = 0;
          parity ^= 1;
        }
      };
      for (int tile = static_cast<int>(blockIdx.x); tile < args.tiles; tile += workers) {
        const int row = tile / args.n_tiles * Shape::kRows;
        for (int k = 0; k < args.k_tiles; ++k, advance()) {
          if (step >= early) {
            barrier_wait(empty + 8 * s, parity);
            barrier_expect(full + 8 * s, Shape::kStage);
            load_w(s, tile, k);
          }
          load_tile(base + s * Shape::kStage, &args.a, full + 8 * s, k * kSlice, row);
        }
        const int column = tile % args.n_tiles * Shape::kColumns;
        const int halves = min(Columns / 64, (args.n - column) / 64);
        for (int of = 0; of < kZStages; ++of, advance()) {
          barrier_wait(empty + 8 * s, parity);
          barrier_expect(full + 8 * s, halves * Shape::kHalf);
          for (int half = 0; half < halves; ++half) {
            load_tile(base + s * Shape::kStage + half * Shape::kHalf, &args.out, full + 8 * s,
                      column + half * 64, row + of * 64);
          }
        }
      }
    }
  } else {
    if constexpr (Groups == 2)
      asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    else
      asm volatile("setmaxnreg.inc.sync.aligned.u32 152;");
    const int consumer = group - 1;
    const int thread = static_cast<int>(threadIdx.x) % 128;
    const int lane = thread % 32;
    const auto release = [&](int s) {
      if (lane == 0) barrier_arrive(empty + 8 * s);
    };
    dependency_wait();
    const auto first_row = [&](int tile) {
      return tile / args.n_tiles * Shape::kRows + consumer * 64;
    };
    float* const own_factors = factors + consumer * 64;
    float* const own_powers = factors + (Groups + consumer) * 64;
    float* const own_scales =
        reinterpret_cast<float*>(shared + (out_base - shared_address(shared))) + consumer * Columns;
    const auto prepare_row = [&](const RowParts& parts, int row) {
      if constexpr (kStagedZ<Epilogue>) {
        own_factors[thread] = parts.scale;
        if (args.narrow8 != nullptr) own_powers[thread] = row_power(args, parts);
      } else {
        own_factors[thread] = row_factor(args, parts, row);
      }
    };
    int s = 0;
    std::uint32_t parity = 0;
    const auto advance = [&] {
      if (++s == kStages) {
        s = 0;
        parity ^= 1;
      }
    };
    int place = 0;  // in the staging buffer
    for (int tile = static_cast<int>(blockIdx.x); tile < args.tiles; tile += workers) {
      const int row0 = first_row(tile);
      const int column0 = tile % args.n_tiles * Shape::kColumns;
      // Loaded before the product and used after it, where registers hold them meanwhile.
      constexpr bool kHold = Groups == 2;
      const RowParts parts = load_row(args, row0 + thread, thread < 64);
      float column_scale[2] = {};
      if constexpr (kSharedScales) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int column = column0 + thread + 128 * i;
          if (args.w_scale != nullptr && column < min(column0 + Columns, args.n))
            column_scale[i] = args.w_scale[column];
        }
      }
      const auto prepare = [&] {
        if (thread < 64) prepare_row(parts, row0 + thread);
        if constexpr (kSharedScales) {
          own_scales[thread] = column_scale[0];
          if (thread < Columns - 128) own_scales[thread + 128] = column_scale[1];
        }
      };
      if constexpr (!kHold) prepare();
      Sum sum[1][Columns / 2];
      int before = s;
      for (int k = 0; k < args.k_tiles; ++k, advance()) {
        barrier_wait(full + 8 * s, parity);
        const std::uint32_t a = base + s * Shape::kStage;
        const std::uint64_t a_desc = descriptor(a + consumer * 64 * kSliceBytes);
        const std::uint64_t b_desc = descriptor(a + Shape::kABytes);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i)
          wgmma<Type, Columns>(sum[0], a_desc + 2 * i, b_desc + 2 * i, k + i);
        wgmma_commit();
        if (k > 0) {
          wgmma_wait<1>();
          release(before);
        }
        before = s;
      }
      wgmma_wait<0>();
      release(before);
      if constexpr (kHold) prepare();
      std::uint32_t staging = out_base + consumer * Shape::kOut;
      int z_stage = 0;
      if constexpr (kStagedZ<Epilogue>) {
        for (int of = 0; of < kZStages; ++of, advance()) {
          // By all: a barrier's parity tells two uses of a stage apart, not more.
          barrier_wait(full + 8 * s, parity);
          if (of == consumer)
            z_stage = s;
          else
            release(s);
        }
        staging = base + z_stage * Shape::kStage;
        if (args.narrow8 != nullptr && column0 == 0 && thread < 64 && row0 + thread < args.m)
          args.narrow8_row_scale[row0 + thread] = 1.0f / own_powers[thread];
      }
      named_barrier(1 + consumer);
      float factor[1][2];
      take_factors(factor, own_factors, thread);
      float2 nothing[2][2][4];
      float squares[Columns / 64][1][2] = {};
#pragma unroll
      for (int part = 0; part < Columns / 64; ++part) {
        const int column = column0 + part * 64;
        if (column >= args.n) break;
        if constexpr (!kStagedZ<Epilogue> && Epilogue != GemmEpilogue::kGeluE4m3) {
          // What was stored last but one has left the staging buffer.
          if (thread == 0) store_wait<Shape::kPlaces - 1>();
          named_barrier(1 + consumer);
        }
        float2 scale[8];
        if constexpr (kSharedScales)
          take_scales(scale, shared_address(own_scales + part * 64), thread);
        else if (kScaled<Type> && args.w_scale != nullptr)
          take_scales(scale, args.w_scale + column, thread);
        finish_half<Type, Epilogue, 1, true>(
            args, sum, part, 0, nothing, factor, own_powers, scale, squares[part],
            staging + (kStagedZ<Epilogue> ? part : place) * Shape::kHalf, consumer, row0, column,
            thread);
        place = (place + 1) % Shape::kPlaces;
      }
      if constexpr (kStagedZ<Epilogue>) {
        store_squares<1>(args, squares, row0, column0, thread);
        // The stage of z is free once it is stored.
        if (thread == 0) {
          store_wait();
          barrier_arrive(empty + 8 * z_stage, 4);
        }
      }
      // All have read the factors before they are those of the next tile.
      named_barrier(1 + consumer);
    }
    if (thread == 0) store_wait();
  }
#else
  __trap();
#endif
}

}  // namespace cortex::cuda::sm90
