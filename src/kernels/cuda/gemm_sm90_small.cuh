#pragma once

#include <algorithm>

#include "kernels/cuda/gemm_sm90_device.cuh"

/// Few rows, whose outputs are too few for all multiprocessors: one output tile a block, K split
/// over the blocks of a cluster, the partial sums added through distributed shared memory in the
/// order of the blocks.
namespace cortex::cuda::sm90 {

constexpr int kMaxStages = 16;    // of the ring
constexpr int kStageFloats = 72;  // a row of 64 f32 partial sums, padded off the banks

template <int Groups, int Columns>  // warpgroups that multiply, 64 rows each
struct SmallShape {
  static constexpr int kRows = 64 * Groups;
  static constexpr int kThreads = 128 * Groups + 32;
  static constexpr int kStage = (kRows + Columns) * kSliceBytes;
  static constexpr int kPartial = Columns / 64 * kRows * kStageFloats * 4;  // bytes, over the ring
  static constexpr int shared(int stages) {
    return 1024 + std::max(stages * kStage, kPartial) + 16 * kMaxStages + kRows * 8;
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

__device__ __forceinline__ void store_bytes(std::uint8_t* to, float4 x, float scale) {
  *reinterpret_cast<std::uint32_t*>(to) =
      pack_e4m3(x.x * scale, x.y * scale) | pack_e4m3(x.z * scale, x.w * scale) << 16;
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
    if constexpr (Epilogue == GemmEpilogue::kAdd || Epilogue == GemmEpilogue::kAddNarrow) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = row0 + first + kPass * i;
        const bool mine = thread / 8 + kPass * i < rows && row < args.m;
        // Fetched before the product, to hide the latency behind it.
#pragma unroll
        for (int half = 0; half < kHalves; ++half) {
#pragma unroll
          for (int q = 0; q < 2; ++q) {
            const int column = column0 + c + half * 64 + q * 32;
            old[i][half][q] = make_float4(0, 0, 0, 0);
            if (!mine) continue;
            if constexpr (Epilogue == GemmEpilogue::kAdd) {
              old[i][half][q] = *reinterpret_cast<const float4*>(
                  args.z + static_cast<std::int64_t>(row) * args.ldz + column);
            } else {
              const uint2 four = *reinterpret_cast<const uint2*>(
                  args.onto + static_cast<std::int64_t>(row % args.onto_rows) * args.ld_onto +
                  column);
              const float2 low = unpack_bf16(four.x), high = unpack_bf16(four.y);
              old[i][half][q] = make_float4(low.x, low.y, high.x, high.y);
            }
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
    float* const powers = factors + Shape::kRows;
    if (thread < rows) {
      if constexpr (Epilogue == GemmEpilogue::kAddNarrow) {
        factors[thread] = row_parts.scale;
        if (args.narrow8 != nullptr) {
          powers[thread] = row_power(args, row_parts);
          if (blockIdx.x == 0 && factor_row < args.m)
            args.narrow8_row_scale[factor_row] = 1.0f / powers[thread];
        }
      } else {
        factors[thread] = row_factor(args, row_parts, factor_row);
      }
    }
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
            const std::int64_t at8 =
                static_cast<std::int64_t>(row) * args.ld_narrow8 + column + 32 * q;
            if constexpr (Epilogue == GemmEpilogue::kGelu || Epilogue == GemmEpilogue::kGeluE4m3) {
              x = make_float4(gelu(x.x), gelu(x.y), gelu(x.z), gelu(x.w));
            }
            if constexpr (Epilogue == GemmEpilogue::kGeluE4m3) {
              if (inside) store_bytes(args.narrow8 + at8, x, args.narrow8_scale);
              continue;
            }
            if constexpr (Epilogue == GemmEpilogue::kAdd || Epilogue == GemmEpilogue::kAddNarrow) {
              const float4 before_add = old[i][half][q];
              x.x += before_add.x;
              x.y += before_add.y;
              x.z += before_add.z;
              x.w += before_add.w;
              square = fmaf(x.x, x.x, square);
              square = fmaf(x.y, x.y, square);
              square = fmaf(x.z, x.z, square);
              square = fmaf(x.w, x.w, square);
              if (Epilogue == GemmEpilogue::kAdd && inside) {
                *reinterpret_cast<float4*>(args.z + static_cast<std::int64_t>(row) * args.ldz +
                                           column + 32 * q) = x;
              }
            }
            if constexpr (Epilogue == GemmEpilogue::kAddNarrow) {
              if (inside && args.narrow8 != nullptr)
                store_bytes(args.narrow8 + at8, x, powers[thread / 8 + kPass * i]);
            }
            if (inside) {
              *reinterpret_cast<uint2*>(
                  args.out_pointer + static_cast<std::int64_t>(row) * args.ldo + column + 32 * q) =
                  make_uint2(pack(x.x, x.y), pack(x.z, x.w));
            }
          }
          if constexpr (Epilogue == GemmEpilogue::kAdd || Epilogue == GemmEpilogue::kAddNarrow) {
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

}  // namespace cortex::cuda::sm90
