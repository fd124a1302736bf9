#pragma once

#include "kernels/cuda/gemm_sm90_device.cuh"

/// What the kernels of many rows do with a warpgroup's accumulators: 64 columns at a time, through
/// shared memory, from where tensor maps store them.
namespace cortex::cuda::sm90 {

template <int Blocks>
constexpr int kHalfBytes = 64 * Blocks * 128;  // of 64 columns of the bf16 result

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

// z that is bf16 is fetched into the staging buffer of the result, before the product, and leaves
// it as the sum.
template <GemmEpilogue Epilogue>
constexpr bool kStagedZ = Epilogue == GemmEpilogue::kAddNarrow;

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

// Weights of bf16 have no scales.
template <GemmType Type>
constexpr bool kScaled = Type != GemmType::kBf16;

// The scales of 64 columns' weights, this thread's.
__device__ __forceinline__ void take_scales(float2 (&scale)[8], const float* scales, int thread) {
#pragma unroll
  for (int j = 0; j < 8; ++j)
    scale[j] = *reinterpret_cast<const float2*>(scales + 8 * j + 2 * (thread % 4));
}
// The same of scales in shared memory. They stay there until they are wanted.
__device__ __forceinline__ void take_scales(float2 (&scale)[8], std::uint32_t scales, int thread) {
#pragma unroll
  for (int j = 0; j < 8; ++j) scale[j] = load_pair(scales + 4 * (8 * j + 2 * (thread % 4)));
}

// 64 columns of one warpgroup's tile, those that are `half` in its accumulators: of rows row0 on
// and of columns `column` on, through 64 * Blocks rows of 128 bytes at `staging`. `z`: the stage
// that holds z, of kRingZ; `old`: its first two units, of kDirectZ; `scale`: where there is
// args.w_scale; `squares`: this thread's sums of squares, of kAdd and kAddNarrow; `Fast`: by
// gelu_fast().
template <GemmType Type, GemmEpilogue Epilogue, int Blocks, bool Fast, int Sums, class T>
__device__ __forceinline__ void finish_half(const KernelArgs& args, T (&sum)[Blocks][Sums],
                                            int half, std::uint32_t z, float2 (&old)[2][2][4],
                                            const float (&factor)[Blocks][2], const float* powers,
                                            const float2 (&scale)[8], float (&squares)[Blocks][2],
                                            std::uint32_t staging, int group, int row0, int column,
                                            int thread) {
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int matrix_row = warp * 16 + (lane & 15);
#pragma unroll
  for (int block = 0; block < Blocks; ++block) {
    const int row = row0 + block * 64 + warp * 16 + lane / 4;
    float x[32];
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      x[i] = static_cast<float>(sum[block][half * 32 + i]) * factor[block][(i / 2) % 2];
    }
    if (kScaled<Type> && args.w_scale != nullptr) {
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        x[4 * j] *= scale[j].x;
        x[4 * j + 1] *= scale[j].y;
        x[4 * j + 2] *= scale[j].x;
        x[4 * j + 3] *= scale[j].y;
      }
    }
    constexpr bool kHalves = Fast && Epilogue == GemmEpilogue::kGeluE4m3;
    if constexpr (!kHalves &&
                  (Epilogue == GemmEpilogue::kGelu || Epilogue == GemmEpilogue::kGeluE4m3)) {
#pragma unroll
      for (int i = 0; i < 32; ++i) x[i] = Fast ? gelu_fast(x[i]) : gelu(x[i]);
    }
    const std::uint32_t to = staging + block * 64 * 128 + matrix_row * 128;
    const auto chunk = [&](int j) {
      return static_cast<std::uint32_t>((j + lane / 16) ^ (lane & 7)) * 16;
    };
    // Rows `row` and `row` + 8 of the tile, in bytes.
    const auto store_bytes = [&](const float(&power)[2]) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        std::uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int at = 8 * i + 2 * r;
          const auto pair = [&](int first) {
            if constexpr (kHalves) {
              return pack_e4m3(
                  __hmul2(gelu_fast(x[first], x[first + 1]), __float2half2_rn(power[r])));
            } else {
              return pack_e4m3(x[first] * power[r], x[first + 1] * power[r]);
            }
          };
          words[i] = pair(at) | pair(at + 4) << 16;
        }
        const uint4 bytes = gather_bytes(words);
        if (row + 8 * r < args.m) {
          *reinterpret_cast<uint4*>(args.narrow8 +
                                    static_cast<std::int64_t>(row + 8 * r) * args.ld_narrow8 +
                                    column + 16 * (lane % 4)) = bytes;
        }
      }
    };
    if constexpr (Epilogue == GemmEpilogue::kGeluE4m3)
      store_bytes({args.narrow8_scale, args.narrow8_scale});
    if constexpr (Epilogue == GemmEpilogue::kAdd || Epilogue == GemmEpilogue::kAddNarrow) {
      float(&square)[2] = squares[block];
      square[0] = square[1] = 0;
      if constexpr (kStagedZ<Epilogue>) {
#pragma unroll
        for (int j = 0; j < 8; j += 2) {
          std::uint32_t old_pairs[4];
          load_matrices(to + chunk(j), old_pairs);
#pragma unroll
          for (int i = 0; i < 4; ++i) {  // rows, rows + 8, then of the next 8 columns
            const float2 before = unpack_bf16(old_pairs[i]);
            const int at = 4 * j + 2 * i;
            x[at] += before.x;
            x[at + 1] += before.y;
            square[i % 2] += fmaf(x[at + 1], x[at + 1], x[at] * x[at]);
          }
        }
      }
      if constexpr (kDirectZ<Epilogue, Blocks>) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const int unit = 2 * (half * Blocks + block) + part;
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float* to = args.z + static_cast<std::int64_t>(row + 8 * r) * args.ldz + column +
                        32 * part + 2 * (lane % 4);
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
            load_z<Blocks>(args, old[part], unit + 2, row0, column - 64 * half, thread);
          }
        }
      }
#pragma unroll
      for (int r = 0; r < (kRingZ<Epilogue, Blocks> ? 2 : 0); ++r) {
        const std::uint32_t line =
            z + (block * 64 + warp * 16 + lane / 4 + 8 * r) * 128 + (lane & 1) * 8;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
          const int chunk = (j % 4 * 2 + lane % 4 / 2) ^ (lane / 4);
          const std::uint32_t at = line + j / 4 * kHalfBytes<Blocks> + chunk * 16;
          float2 now = load_pair(at);
          now.x += x[4 * j + 2 * r];
          now.y += x[4 * j + 2 * r + 1];
          store_pair(at, now);
          x[4 * j + 2 * r] = now.x;
          x[4 * j + 2 * r + 1] = now.y;
          square[r] += fmaf(now.y, now.y, now.x * now.x);
        }
      }
    }
    if constexpr (kStagedZ<Epilogue>) {
      if (args.narrow8 != nullptr)
        store_bytes({powers[block * 64 + warp * 16 + lane / 4],
                     powers[block * 64 + warp * 16 + lane / 4 + 8]});
    }
    if constexpr (Epilogue != GemmEpilogue::kGeluE4m3) {
#pragma unroll
      for (int j = 0; j < 8; j += 2) {
        store_matrices(to + chunk(j), pack(x[4 * j], x[4 * j + 1]),
                       pack(x[4 * j + 2], x[4 * j + 3]), pack(x[4 * j + 4], x[4 * j + 5]),
                       pack(x[4 * j + 6], x[4 * j + 7]));
      }
    }
  }
  if constexpr (Epilogue != GemmEpilogue::kGeluE4m3) {
    proxy_fence();
    named_barrier(1 + group);
    if (thread == 0) {
      // Rows past m are clipped by the map.
      if constexpr (kRingZ<Epilogue, Blocks>) {
        store_tile(&args.z_map, z, column, row0);
        store_tile(&args.z_map, z + kHalfBytes<Blocks>, column + 32, row0);
      }
      store_tile(&args.out, staging, column, row0);
      store_commit();
    }
  }
}

// Sums of squares of this thread's rows, from its own sums of up to four halves of columns. Four
// threads share a row: each stores what is of one half, so that a row is written once.
template <int Blocks, int Halves>
__device__ __forceinline__ void store_squares(const KernelArgs& args,
                                              const float (&squares)[Halves][Blocks][2], int row0,
                                              int column0, int thread) {
  static_assert(Halves <= 4);
  // Of two values, the one that the lane's bit names, over this lane and its neighbour.
  const auto add = [&](float low, float high, int bit) {
    const bool upper = thread & bit;
    return (upper ? high : low) + __shfl_xor_sync(0xFFFFFFFF, upper ? low : high, bit);
  };
  const int half = thread % 4;
#pragma unroll
  for (int block = 0; block < Blocks; ++block) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float own[4] = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < Halves; ++i) own[i] = squares[i][block][r];
      const float sum = add(add(own[0], own[1], 1), add(own[2], own[3], 1), 2);
      const int row = row0 + block * 64 + thread / 32 * 16 + thread % 32 / 4 + 8 * r;
      const int at = column0 / 64 + half;
      if (half < Halves && at < args.n / 64 && row < args.m)
        args.square_out[static_cast<std::int64_t>(row) * (args.n / 64) + at] = sum;
    }
  }
}

// The factors of this thread's rows.
template <int Blocks>
__device__ __forceinline__ void take_factors(float (&factor)[Blocks][2], const float* factors,
                                             int thread) {
#pragma unroll
  for (int block = 0; block < Blocks; ++block) {
    factor[block][0] = factors[block * 64 + thread / 32 * 16 + thread % 32 / 4];
    factor[block][1] = factors[block * 64 + thread / 32 * 16 + thread % 32 / 4 + 8];
  }
}

}  // namespace cortex::cuda::sm90
