#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/linear_device.cuh"

/// Linears. The sum over k of one output is, in every kernel here and whatever m is: in bf16 a
/// chain of mma over each 256 bytes of k, the chains added first to last; in int8 exact; in float32
/// one chain of fused multiply-adds. So a row has the same bits in any batch.
namespace cortex::cuda {
namespace {

constexpr int kSkinnyMostRows = 32;  // more rows pay for shared memory
constexpr int kSkinnyThreads = 128;

template <class T>
struct Traits;
template <>
struct Traits<Bf16> {
  using Sum = float;
  static constexpr int kVector = 8;  // elements of 16 bytes
};
template <>
struct Traits<std::int8_t> {
  using Sum = int;
  static constexpr int kVector = 16;
};

/// The same of four neighbours, on 16 bytes of float32 or 8 of bf16.
__device__ float4 put_four(const LinearArgs& a, int m, int n, float4 sum, float factor) {
  const std::int64_t at = m * a.out_stride + n;
  float4 before = {0, 0, 0, 0};
  if (a.epilogue == Epilogue::add)
    before = *reinterpret_cast<const float4*>(static_cast<const float*>(a.out) + at);
  const float4 y = {finish(a, scaled(a, n, sum.x, factor), before.x),
                    finish(a, scaled(a, n + 1, sum.y, factor), before.y),
                    finish(a, scaled(a, n + 2, sum.z, factor), before.z),
                    finish(a, scaled(a, n + 3, sum.w, factor), before.w)};
  if (a.out_dtype == DType::bf16)
    *reinterpret_cast<uint2*>(static_cast<Bf16*>(a.out) + at) = {pack_bf16(y.x, y.y),
                                                                 pack_bf16(y.z, y.w)};
  else
    *reinterpret_cast<float4*>(static_cast<float*>(a.out) + at) = y;
  return y;
}

/// A few rows: a block 8 outputs of up to 16 rows, whole k in shared memory, a warp a chain. The
/// weights do not wait for the kernel before. Loops are short on purpose: this code is fetched anew
/// for every launch.
template <class T>
__global__ void __launch_bounds__(kSkinnyThreads) skinny_linear(const LinearArgs a) {
  using Sum = typename Traits<T>::Sum;
  constexpr int kVector = Traits<T>::kVector;
  constexpr int kWarps = kSkinnyThreads / kWarp;
  extern __shared__ uint4 rows[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int n0 = blockIdx.x * kColumns, m0 = blockIdx.y * kSkinnyRows;
  const int vectors = static_cast<int>(a.w_stride) / kVector;  // of a row
  const int pitch = vectors + kSkinnyPad;
  const int here = min(kSkinnyRows, a.m - m0);
  uint4* const w_rows = rows;
  uint4* const x_rows = rows + kColumns * pitch;
  Sum* const parts = reinterpret_cast<Sum*>(x_rows + min(kSkinnyRows, a.m) * pitch);
  let_next_begin();
  for (int row = warp; row < kColumns; row += kWarps)
    for (int i = lane; i < vectors; i += kWarp)
      copy_16_async(w_rows + row * pitch + i,
                    static_cast<const T*>(a.w) + (n0 + row) * a.w_stride + i * kVector, true);
  // The output of this thread in the end, and what it will need then.
  const int column = threadIdx.x % kColumns;
  const int n = n0 + column, m = m0 + threadIdx.x / kColumns;
  const bool valid = m < a.m && n < a.n;
  RowSquares<> squares;
  float before = 0, factor = 1;
  wait_for_previous();
  for (int row = warp; row < here; row += kWarps)
    for (int i = lane; i < vectors; i += kWarp) {
      const bool inside = i * kVector < a.k;
      copy_16_async(
          x_rows + row * pitch + i,
          static_cast<const T*>(a.x) + (m0 + row) * a.x_stride + (inside ? i * kVector : 0),
          inside);
    }
  commit_copies();
  if (a.squares) squares.load(a, min(m, a.m - 1), column);
  if (valid) before = before_of(a, m, n);
  if (valid && a.x_scale) factor = a.x_scale[m];
  wait_copies<0>();
  __syncthreads();
  // Lane t's 8 bytes of mma j, 32 bytes, of a row.
  const auto word = [&](const uint4* from, int row, int j) {
    return reinterpret_cast<const uint2*>(from + row * pitch + 2 * j)[t];
  };
  const int steps = vectors / 2, chains = (steps + kChain - 1) / kChain;
  for (int chain = warp; chain < chains; chain += kWarps) {
    Sum d[4] = {};
    const int end = min(steps, (chain + 1) * kChain);
#pragma unroll 8
    for (int j = chain * kChain; j < end; ++j) {
      const uint2 zero = {0, 0};
      mma_32_bytes(d, g < here ? word(x_rows, g, j) : zero,
                   g + 8 < here ? word(x_rows, g + 8, j) : zero, word(w_rows, g, j));
    }
    put_chain(parts + chain * kSkinnyTile, d);
  }
  __syncthreads();
  const Sum sum = add_chains(parts, chains, static_cast<int>(threadIdx.x));
  if (a.squares) factor = squares.inverse_rms(a, min(m, a.m - 1), column);
  float y = 0;
  if (valid) y = put(a, m, n, scaled(a, n, static_cast<float>(sum), factor), before);
  if (a.narrow) leave_narrow(a, m, n, y, valid);
}

/// Many rows: tiles in shared memory, four stages of 128 bytes of k ahead.
template <class T, int kM, int kN, int kWarpM, int kWarpN>
__global__ void __launch_bounds__(kM / kWarpM * (kN / kWarpN) * kWarp)
    tile_linear(const LinearArgs a) {
  using Sum = typename Traits<T>::Sum;
  constexpr int kVector = Traits<T>::kVector;
  constexpr int kThreads = kM / kWarpM * (kN / kWarpN) * kWarp;
  constexpr int kK = 8 * kVector;  // 128 bytes
  constexpr int kStages = 4;
  constexpr int kTileM = kWarpM / 16, kTileN = kWarpN / 8;
  constexpr bool kChains = std::is_same_v<Sum, float>;
  extern __shared__ uint4 tiles[];  // [stages][kM + kN][8]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int m0 = blockIdx.x * kM, n0 = blockIdx.y * kN;
  const int warp_m = warp % (kM / kWarpM) * kWarpM, warp_n = warp / (kM / kWarpM) * kWarpN;
  const int steps = static_cast<int>(a.w_stride / kK);

  // Pairs of 16 bytes are shifted by the row, so that the rows of an mma lie in different banks.
  const auto place = [](int row, int part) { return row * 8 + (part ^ ((row & 3) << 1)); };
  // Lane t's 8 bytes of step j, 32 bytes, of a row.
  const auto word = [&](const uint4* rows, int row, int j) {
    return reinterpret_cast<const uint2*>(rows + place(row, 2 * j + t / 2))[t % 2];
  };
  const auto fetch = [&](int step) {
    uint4* const stage = tiles + step % kStages * (kM + kN) * 8;
    const int k = step * kK;
    for (int i = threadIdx.x; i < kM * 8; i += kThreads) {
      const int row = i / 8, part = i % 8;
      const bool valid = m0 + row < a.m && k + part * kVector < a.k;
      const T* from = static_cast<const T*>(a.x);
      if (valid) from += (m0 + row) * a.x_stride + k + part * kVector;
      copy_16_async(stage + place(row, part), from, valid);
    }
    for (int i = threadIdx.x; i < kN * 8; i += kThreads) {
      const int row = i / 8, part = i % 8;
      const bool valid = n0 + row < a.n;
      const T* from = static_cast<const T*>(a.w);
      if (valid) from += (n0 + row) * a.w_stride + k + part * kVector;
      copy_16_async(stage + kM * 8 + place(row, part), from, valid);
    }
  };

  begin_kernel();
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) fetch(s);
    commit_copies();
  }
  Sum sums[kTileM][kTileN][4] = {};
  Sum chain[kTileM][kTileN][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_copies<kStages - 2>();
    __syncthreads();
    if (step + kStages - 1 < steps) fetch(step + kStages - 1);
    commit_copies();
    const uint4* const stage = tiles + step % kStages * (kM + kN) * 8;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      uint2 low[kTileM], high[kTileM], b[kTileN];
#pragma unroll
      for (int i = 0; i < kTileM; ++i) {
        low[i] = word(stage, warp_m + i * 16 + g, j);
        high[i] = word(stage, warp_m + i * 16 + g + 8, j);
      }
#pragma unroll
      for (int i = 0; i < kTileN; ++i) b[i] = word(stage + kM * 8, warp_n + i * 8 + g, j);
#pragma unroll
      for (int i = 0; i < kTileM; ++i)
#pragma unroll
        for (int n = 0; n < kTileN; ++n)
          mma_32_bytes(kChains ? chain[i][n] : sums[i][n], low[i], high[i], b[n]);
    }
    if constexpr (kChains) {
      if (step % 4 != 3 && step != steps - 1) continue;
#pragma unroll
      for (int i = 0; i < kTileM; ++i)
#pragma unroll
        for (int j = 0; j < kTileN; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            // The first chain is the sum so far, not added to 0.
            sums[i][j][e] = step < 4 ? chain[i][j][e] : sums[i][j][e] + chain[i][j][e];
            chain[i][j][e] = 0;
          }
    }
  }
  wait_copies<0>();

  // 1 / rms of the tile's rows, eight lanes a row.
  __shared__ float factors[kM];
  for (int i = threadIdx.x; i < kM * 8; i += kThreads) {
    const int m = min(m0 + i / 8, a.m - 1);
    float factor = 1;
    if (a.squares) {
      RowSquares<> squares;
      squares.load(a, m, i % 8);
      factor = squares.inverse_rms(a, m, i % 8);
    }
    if (a.x_scale) factor = a.x_scale[m];
    if (i % 8 == 0) factors[i / 8] = factor;
  }
  __syncthreads();  // nobody reads the tiles any more
  // Through shared memory, so that the code below is a short loop (unrolled over registers it was
  // fetched for longer than it ran) and rows are written whole.
  constexpr int kPitch = kN + 4;
  float* const staged = reinterpret_cast<float*>(tiles);
#pragma unroll
  for (int i = 0; i < kTileM; ++i)
#pragma unroll
    for (int j = 0; j < kTileN; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<float2*>(staged + (warp_m + i * 16 + g + half * 8) * kPitch + warp_n +
                                   j * 8 + 2 * t) = {static_cast<float>(sums[i][j][half * 2]),
                                                     static_cast<float>(sums[i][j][half * 2 + 1])};
  __syncthreads();
  const bool fours = a.n % 4 == 0 && a.out_stride % 4 == 0;
#pragma unroll 2
  for (int i = threadIdx.x; i < kM * kN / 4; i += kThreads) {
    const int row = i / (kN / 4), column = i % (kN / 4) * 4;
    const int m = m0 + row, n = n0 + column;
    const bool inside = m < a.m && n < a.n;
    const float4 sum = *reinterpret_cast<const float4*>(staged + row * kPitch + column);
    float4 y = {0, 0, 0, 0};
    if (inside && fours) {
      y = put_four(a, m, n, sum, factors[row]);
    } else if (inside) {
      y.x = put(a, m, n, scaled(a, n, sum.x, factors[row]));
      if (n + 1 < a.n) y.y = put(a, m, n + 1, scaled(a, n + 1, sum.y, factors[row]));
      if (n + 2 < a.n) y.z = put(a, m, n + 2, scaled(a, n + 2, sum.z, factors[row]));
      if (n + 3 < a.n) y.w = put(a, m, n + 3, scaled(a, n + 3, sum.w, factors[row]));
    }
    if (!a.narrow) continue;
    if (!inside) continue;
    Bf16* const to = a.narrow + static_cast<std::int64_t>(m) * a.n + n;
    if (fours) {
      *reinterpret_cast<uint2*>(to) = {pack_bf16(y.x, y.y), pack_bf16(y.z, y.w)};
    } else {
      const float each[4] = {y.x, y.y, y.z, y.w};
#pragma unroll 1
      for (int e = 0; e < 4 && n + e < a.n; ++e) to[e] = __float2bfloat16_rn(each[e]);
    }
    *reinterpret_cast<float2*>(a.squares_out +
                               (static_cast<std::int64_t>(m) * ((a.n + 7) / 8) + n / 8) * 4 +
                               column % 8 / 2) = {pair_square(y.x, y.y), pair_square(y.z, y.w)};
  }
}

/// float32, 64 x 64 outputs a block, 4 x 4 a thread.
template <class X>
__global__ void __launch_bounds__(256) float_linear(const LinearArgs a) {
  constexpr int kTile = 64, kK = 16;
  __shared__ float x_tile[kK][kTile + 4];
  __shared__ float w_tile[kK][kTile + 4];
  const int m0 = blockIdx.x * kTile, n0 = blockIdx.y * kTile;
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  float sums[4][4] = {};
  begin_kernel();
  for (int k0 = 0; k0 < a.k; k0 += kK) {
    for (int i = threadIdx.x; i < kTile * kK; i += 256) {
      const int r = i / kK, k = i % kK;
      const bool inside = k0 + k < a.k;
      x_tile[k][r] = inside && m0 + r < a.m
                         ? widen(static_cast<const X*>(a.x)[(m0 + r) * a.x_stride + k0 + k])
                         : 0.0f;
      w_tile[k][r] = inside && n0 + r < a.n
                         ? static_cast<const float*>(a.w)[(n0 + r) * a.w_stride + k0 + k]
                         : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kK; ++k) {
      const float4 x = *reinterpret_cast<const float4*>(&x_tile[k][row]);
      const float4 w = *reinterpret_cast<const float4*>(&w_tile[k][column]);
      const float xs[4] = {x.x, x.y, x.z, x.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] = fmaf(xs[i], ws[j], sums[i][j]);
    }
    __syncthreads();
  }
  for (int i = 0; i < 4; ++i)
    for (int j = 0; j < 4; ++j)
      if (m0 + row + i < a.m && n0 + column + j < a.n)
        put(a, m0 + row + i, n0 + column + j, scaled(a, n0 + column + j, sums[i][j], 1));
}

/// Four neighbours of a row of float32 or bf16.
__device__ float4 four(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ float4 four(const Bf16* p) {
  const uint2 x = *reinterpret_cast<const uint2*>(p);
  const float2 a = unpack_bf16(x.x), b = unpack_bf16(x.y);
  return {a.x, a.y, b.x, b.y};
}

/// float32, few outputs: kRowWarps warps a row share k, 8 outputs at a time.
template <class X, int kRowWarps>
__global__ void __launch_bounds__(128) narrow_linear(const LinearArgs a) {
  constexpr int kOutputs = 8, kRows = 4 / kRowWarps;
  __shared__ float parts[4][kOutputs];
  begin_kernel();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int m = blockIdx.x * kRows + warp / kRowWarps, n0 = blockIdx.y * kOutputs;
  const int part = warp % kRowWarps * kWarp + lane;
  float sums[kOutputs] = {};
  if (m < a.m) {
    const X* const x = static_cast<const X*>(a.x) + m * a.x_stride;
    const float* const w = static_cast<const float*>(a.w) + n0 * a.w_stride;
    if (a.k % 4 == 0 && a.x_stride % 4 == 0 && a.w_stride % 4 == 0) {
#pragma unroll 2
      for (int k = part * 4; k < a.k; k += kRowWarps * kWarp * 4) {
        const float4 v = four(x + k);
#pragma unroll
        for (int j = 0; j < kOutputs; ++j) {
          if (n0 + j >= a.n) continue;
          const float4 u = four(w + j * a.w_stride + k);
          sums[j] = fmaf(v.w, u.w, fmaf(v.z, u.z, fmaf(v.y, u.y, fmaf(v.x, u.x, sums[j]))));
        }
      }
    } else {
      for (int k = part; k < a.k; k += kRowWarps * kWarp)
#pragma unroll
        for (int j = 0; j < kOutputs; ++j)
          if (n0 + j < a.n) sums[j] = fmaf(widen(x[k]), w[j * a.w_stride + k], sums[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < kOutputs; ++j) {
    const float sum = warp_sum(sums[j]);
    if (lane == j) parts[warp][j] = sum;
  }
  __syncthreads();
  if (warp % kRowWarps != 0 || lane >= kOutputs || m >= a.m || n0 + lane >= a.n) return;
  float sum = parts[warp][lane];
  for (int i = 1; i < kRowWarps; ++i) sum += parts[warp + i][lane];
  put(a, m, n0 + lane, scaled(a, n0 + lane, sum, 1));
}

template <class T, int kM, int kN, int kWarpM, int kWarpN>
void launch_tiles(const LinearArgs& a, cudaStream_t stream) {
  constexpr std::size_t kShared = std::size_t{4} * (kM + kN) * 8 * sizeof(uint4);
  auto* const kernel = tile_linear<T, kM, kN, kWarpM, kWarpN>;
  allow_shared(kernel, kShared);
  launch(kernel, dim3(blocks_of(a.m, kM), blocks_of(a.n, kN)), kM / kWarpM * (kN / kWarpN) * kWarp,
         kShared, stream, a);
}

template <class T>
void launch_mma(const LinearArgs& a, cudaStream_t stream) {
  constexpr std::int64_t kFill = 100;  // blocks that fill most of a GPU
  if (a.m <= kSkinnyMostRows) {
    // Weights, rows of x and the sums of chains.
    const std::size_t row_bytes = static_cast<std::size_t>(a.w_stride) * sizeof(T);
    const std::size_t chains = (row_bytes + 511) / 512;
    const std::size_t bytes = static_cast<std::size_t>(kColumns + std::min(a.m, kSkinnyRows)) *
                                  (row_bytes + kSkinnyPad * sizeof(uint4)) +
                              chains * kSkinnyTile * sizeof(float);
    allow_shared(skinny_linear<T>, bytes);
    launch(skinny_linear<T>, dim3(blocks_of(a.n, kColumns), blocks_of(a.m, kSkinnyRows)),
           kSkinnyThreads, bytes, stream, a);
    return;
  }
  const auto tiles = [&](int m, int n) {
    return static_cast<std::int64_t>(blocks_of(a.m, m)) * blocks_of(a.n, n);
  };
  // Two blocks of the largest kind fit a multiprocessor, so that one computes while one stores.
  if (tiles(128, 64) >= kFill)
    launch_tiles<T, 128, 64, 64, 32>(a, stream);
  else if (tiles(64, 64) >= kFill)
    launch_tiles<T, 64, 64, 32, 32>(a, stream);
  else
    launch_tiles<T, 32, 64, 16, 32>(a, stream);
}

template <class X>
void launch_float(const LinearArgs& a, cudaStream_t stream) {
  constexpr int kNarrow = 32, kLong = 1024;
  if (a.n <= kNarrow && a.k >= kLong)
    launch(narrow_linear<X, 4>, dim3(static_cast<unsigned>(a.m), blocks_of(a.n, 8)), 128, 0, stream,
           a);
  else if (a.n <= kNarrow)
    launch(narrow_linear<X, 1>, dim3(blocks_of(a.m, 4), blocks_of(a.n, 8)), 128, 0, stream, a);
  else
    launch(float_linear<X>, dim3(blocks_of(a.m, 64), blocks_of(a.n, 64)), 256, 0, stream, a);
}

}  // namespace

void linear(const LinearArgs& args, cudaStream_t stream) {
  if (args.m == 0 || args.n == 0) return;
  switch (args.precision) {
    case DType::f32:
      return args.x_dtype == DType::f32 ? launch_float<float>(args, stream)
                                        : launch_float<Bf16>(args, stream);
    case DType::bf16:
      return launch_mma<Bf16>(args, stream);
    case DType::i8:
      return launch_mma<std::int8_t>(args, stream);
  }
}

}  // namespace cortex::cuda
