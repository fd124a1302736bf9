#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// What the kernels that multiply share: with the same functions, a row has the same bits in each.
namespace cortex::cuda {

constexpr int kSkinnyRows = 16;  // of one mma
constexpr int kColumns = 8;      // of one mma
constexpr int kSkinnyTile = kSkinnyRows * kColumns;
constexpr int kSkinnyPad = 2;  // vectors behind a row, so that four rows lie in different banks
constexpr int kChain = 16;     // mma of a chain

/// Room for a row's squares of 8 columns each, whole groups of 64 of them.
__host__ __device__ constexpr int turned_eighths(int eighths) { return (eighths + 63) / 64 * 64; }

#ifdef __CUDACC__

/// 1 / rms of row m, by eight neighbouring lanes that hold `part` 0 to 7. A row's squares are
/// summed over groups of 64 columns: in a group each of the four pairs of 8 columns on its own,
/// first to last, then those four pairwise; then the groups first to last.
/// kTurned: each 64 places lie turned, 8 by 8, so that lanes read neighbours.
template <bool kTurned = false>
struct RowSquares {
  float4 each[8];  // of the first 512 columns
  __device__ void load(const LinearArgs& a, int m, int part, int first = 0) {
    const int eighths = (a.k + 7) / 8;
    const auto* const row =
        reinterpret_cast<const float4*>(a.squares) +
        static_cast<std::int64_t>(m) * (kTurned ? turned_eighths(eighths) : eighths);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int at = first + part * 8 + i;
      each[i] = at < eighths ? row[kTurned ? first + i * 8 + part : at] : float4{0, 0, 0, 0};
    }
  }
  __device__ float inverse_rms(const LinearArgs& a, int m, int part) {
    const int eighths = (a.k + 7) / 8;
    float total = 0;
    for (int first = 0; first < eighths; first += 64) {
      if (first > 0) load(a, m, part, first);
      float4 sum = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < 8; ++i)
        sum = {sum.x + each[i].x, sum.y + each[i].y, sum.z + each[i].z, sum.w + each[i].w};
      const float group = (sum.x + sum.y) + (sum.z + sum.w);
#pragma unroll
      for (int p = 0; p < 8; ++p) total += __shfl_sync(kAllLanes, group, (threadIdx.x & 24) + p);
    }
    return rsqrtf(total / static_cast<float>(a.k) + a.eps);
  }
};
/// Of two neighbouring columns.
__device__ inline float pair_square(float x, float y) { return fmaf(y, y, x * x); }

__device__ inline float scaled(const LinearArgs& a, int n, float sum, float factor) {
  float y = sum * factor;
  if (a.w_scale) y *= a.w_scale[n];
  if (a.bias) y += a.bias[n];
  return y;
}

/// The epilogue of one sum. `before` is what Epilogue::add adds to.
__device__ inline float finish(const LinearArgs& a, float y, float before) {
  if (a.epilogue == Epilogue::gelu) return a.precision == DType::f32 ? gelu_exact(y) : gelu(y);
  return a.epilogue == Epilogue::add ? __fadd_rn(y, before) : y;
}

/// Stores y where no other thread does; returns what is there afterwards.
__device__ inline float before_of(const LinearArgs& a, int m, int n) {
  return a.epilogue == Epilogue::add ? static_cast<const float*>(a.out)[m * a.out_stride + n] : 0;
}
__device__ inline float put(const LinearArgs& a, int m, int n, float y, float before) {
  const std::int64_t at = m * a.out_stride + n;
  y = finish(a, y, before);
  if (a.out_dtype == DType::bf16)
    static_cast<Bf16*>(a.out)[at] = __float2bfloat16_rn(y);
  else
    static_cast<float*>(a.out)[at] = y;
  return y;
}

__device__ inline float put(const LinearArgs& a, int m, int n, float y) {
  return put(a, m, n, y, before_of(a, m, n));
}
/// What a norm will want to know of y, where y is a sum of this thread: by whole warps,
/// neighbouring lanes with neighbouring columns.
template <bool kTurned = false>
__device__ void leave_narrow(const LinearArgs& a, int m, int n, float y, bool valid) {
  if (valid) a.narrow[static_cast<std::int64_t>(m) * a.n + n] = __float2bfloat16_rn(y);
  const float next = __shfl_xor_sync(kAllLanes, y, 1);
  if (!valid || n % 2 != 0) return;
  const int eighths = (a.n + 7) / 8, at = n / 8;
  const std::int64_t eighth =
      kTurned ? std::int64_t{m} * turned_eighths(eighths) + (at & ~63) + at % 8 * 8 + at % 64 / 8
              : std::int64_t{m} * eighths + at;
  a.squares_out[eighth * 4 + n % 8 / 2] = pair_square(y, next);
}

/// The sums of a chain, as mma leaves them, to [kSkinnyRows][kColumns].
template <class Sum>
__device__ void put_chain(Sum* to, const Sum (&d)[4]) {
  const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  to[g * kColumns + 2 * t] = d[0];
  to[g * kColumns + 2 * t + 1] = d[1];
  to[(g + 8) * kColumns + 2 * t] = d[2];
  to[(g + 8) * kColumns + 2 * t + 1] = d[3];
}
/// The sum of element `at` over the chains, first to last.
template <class Sum>
__device__ Sum add_chains(const Sum* parts, int chains, int at) {
  Sum sum = parts[at];
#pragma unroll 4
  for (int c = 1; c < chains; ++c) sum += parts[c * kSkinnyTile + at];
  return sum;
}

#endif  // __CUDACC__

}  // namespace cortex::cuda
