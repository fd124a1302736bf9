#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// The head of windows, fused: pooling is linear, so a row counts only through its scores and, a
/// head, its product with the value weight. Two norms of a row are one factor and two gains.
namespace cortex::cuda {
namespace {

constexpr int kWarps = 8;  // that share a row's columns
constexpr int kTileRows = 16;
constexpr int kTileColumns = 8;  // of one mma
constexpr int kTiles = 3;        // of columns, of a block
constexpr int kColumns = kTiles * kTileColumns;
constexpr int kChunk = 32;  // of k

/// Eight neighbours.
struct Eight {
  float v[8];
};
__device__ Eight eight(const float* p) {
  const float4 a = *reinterpret_cast<const float4*>(p);
  const float4 b = *reinterpret_cast<const float4*>(p + 4);
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
__device__ Eight eight(const Bf16* p) {
  const uint4 x = *reinterpret_cast<const uint4*>(p);
  const float2 a = unpack_bf16(x.x), b = unpack_bf16(x.y), c = unpack_bf16(x.z),
               d = unpack_bf16(x.w);
  return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}

/// As a sum of two bf16: 16 bits of each.
struct Split {
  uint4 high, low;
};
__device__ Split split(const Eight& x) {
  std::uint32_t high[4], low[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    high[i] = pack_bf16(x.v[2 * i], x.v[2 * i + 1]);
    const float2 rounded = unpack_bf16(high[i]);
    low[i] = pack_bf16(x.v[2 * i] - rounded.x, x.v[2 * i + 1] - rounded.y);
  }
  return {{high[0], high[1], high[2], high[3]}, {low[0], low[1], low[2], low[3]}};
}

/// products[item, column, row of the item] of the rows' keys with the columns' weights: scores,
/// then a value a head. A block kRowTiles times 16 rows; its warps take chunks of k in turn.
template <class X, int kRowTiles>
__global__ void __launch_bounds__(kWarps* kWarp, 2) multiply_keys(const LatentHeadPlan p) {
  constexpr int kRows = kRowTiles * kTileRows;
  constexpr int kAhead = kRowTiles == 1 ? 2 : 1;  // chunks, as registers allow
  __shared__ float parts[kWarps][kColumns][kRows + 1];
  __shared__ float squares[kWarps][2][kRows];
  __shared__ float factors[kRows];
  begin_kernel();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int row0 = blockIdx.x * kRows, column0 = blockIdx.y * kColumns;
  float sums[kRowTiles][kTiles][4] = {};
  float square[kRowTiles][2] = {}, gained[kRowTiles][2] = {};
#pragma unroll kAhead
  for (int k = warp * kChunk; k < p.dim; k += kWarps * kChunk) {
    const int at = k + 8 * t;
    Eight raw[kRowTiles][2];
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = min(row0 + i * kTileRows + half * 8 + g, p.rows - 1);
        raw[i][half] = eight(static_cast<const X*>(p.x) + row * p.x_stride + at);
      }
    Split weight[kTiles];
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const int column = column0 + n * kTileColumns + g;
      Eight w = {};
      if (column < p.scores)
        w = eight(p.score + static_cast<std::int64_t>(column) * p.dim + at);
      else if (column < p.scores + p.heads)
        w = eight(p.value + static_cast<std::int64_t>(column - p.scores) * p.dim + at);
      weight[n] = split(w);
    }
    const Eight first = eight(p.first_gain + at), second = eight(p.second_gain + at);
#pragma unroll
    for (int i = 0; i < kRowTiles; ++i) {
      Split key[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Eight x = raw[i][half];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          square[i][half] = fmaf(x.v[e], x.v[e], square[i][half]);
          x.v[e] *= first.v[e];
          gained[i][half] = fmaf(x.v[e], x.v[e], gained[i][half]);
          x.v[e] *= second.v[e];
        }
        key[half] = split(x);
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
        mma_64_bytes(sums[i][n], key[0].low, key[1].low, weight[n].high);
        mma_64_bytes(sums[i][n], key[0].high, key[1].high, weight[n].low);
        mma_64_bytes(sums[i][n], key[0].high, key[1].high, weight[n].high);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kRowTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = i * kTileRows + half * 8 + g;
      for (int step = 1; step < 4; step *= 2) {
        square[i][half] += __shfl_xor_sync(kAllLanes, square[i][half], step);
        gained[i][half] += __shfl_xor_sync(kAllLanes, gained[i][half], step);
      }
      if (t == 0) {
        squares[warp][0][row] = square[i][half];
        squares[warp][1][row] = gained[i][half];
      }
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          parts[warp][n * kTileColumns + 2 * t + e][row] = sums[i][n][half * 2 + e];
    }
  }
  __syncthreads();
  if (threadIdx.x < kRows) {
    const auto n = static_cast<float>(p.dim);
    float of_x = 0, of_gained = 0;
    for (int w = 0; w < kWarps; ++w) {
      of_x += squares[w][0][threadIdx.x];
      of_gained += squares[w][1][threadIdx.x];
    }
    const float inner = rsqrtf(of_x / n + p.first_eps);
    factors[threadIdx.x] = inner * rsqrtf(of_gained / n * inner * inner + p.second_eps);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kColumns * kRows; i += kWarps * kWarp) {
    const int row = i % kRows, column = i / kRows;
    if (row0 + row >= p.rows || column0 + column >= p.scores + p.heads) continue;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += parts[w][column][row];
    const int item = (row0 + row) / p.latents;
    p.products[(static_cast<std::int64_t>(item) * (p.scores + p.heads) + column0 + column) *
                   p.latents +
               (row0 + row) % p.latents] = sum * factors[row];
  }
}

/// A block an answer, a warp a head.
__global__ void __launch_bounds__(kWarps* kWarp) answer(const LatentHeadPlan p) {
  __shared__ float parts[kWarps];
  begin_kernel();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int output = blockIdx.x;
  const float* const products =
      p.products + static_cast<std::int64_t>(blockIdx.y) * (p.scores + p.heads) * p.latents;
  float answered = 0;
  for (int h = warp; h < p.heads; h += kWarps) {
    const float* const scores =
        products + static_cast<std::int64_t>(output * p.heads + h) * p.latents;
    const float* const values = products + static_cast<std::int64_t>(p.scores + h) * p.latents;
    float top = -INFINITY;
#pragma unroll 8
    for (int r = lane; r < p.latents; r += kWarp) top = fmaxf(top, scores[r]);
    top = warp_max(top);
    float total = 0, sum = 0;
#pragma unroll 8
    for (int r = lane; r < p.latents; r += kWarp) {
      const float weight = expf(scores[r] - top);
      total += weight;
      sum = fmaf(weight, values[r], sum);
    }
    answered += warp_sum(sum) / warp_sum(total);
  }
  if (lane == 0) parts[warp] = answered;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += parts[w];
  p.out[blockIdx.y * p.out_stride + output] = sum;
}

template <class X>
void launch_products(const LatentHeadPlan& p, cudaStream_t stream) {
  constexpr int kFill = 132 * kTileRows;  // rows that give a multiprocessor a block of 16
  const unsigned columns = blocks_of(p.scores + p.heads, kColumns);
  if (p.rows > kFill)
    launch(multiply_keys<X, 2>, dim3(blocks_of(p.rows, 2 * kTileRows), columns), kWarps * kWarp, 0,
           stream, p);
  else
    launch(multiply_keys<X, 1>, dim3(blocks_of(p.rows, kTileRows), columns), kWarps * kWarp, 0,
           stream, p);
}

}  // namespace

bool latent_head_fuses(const LatentHeadArgs& a) {
  const auto rms = [](const NormArgs& n) { return n.kind == NormArgs::Kind::rms && n.gain; };
  // Where keys are float32, so are their products; where they are not, their room holds a row's.
  if (a.keys.stride != a.keys.cols || 2 * a.heads * (a.out.cols + 1) > a.keys.cols) return false;
  return rms(a.first) && rms(a.second) && a.keys.dtype == DType::bf16 && a.x.cols % kChunk == 0 &&
         a.x.stride % 8 == 0;
}

void latent_head(const LatentHeadPlan& p, cudaStream_t stream) {
  if (p.rows == 0) return;
  if (p.x_dtype == DType::f32)
    launch_products<float>(p, stream);
  else
    launch_products<Bf16>(p, stream);
  launch(answer,
         dim3(static_cast<unsigned>(p.scores / p.heads), static_cast<unsigned>(p.rows / p.latents)),
         kWarps * kWarp, 0, stream, p);
}

}  // namespace cortex::cuda
