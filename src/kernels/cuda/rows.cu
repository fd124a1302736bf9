#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// Operations on rows: norms, quantisation and pooling.
namespace cortex::cuda {
namespace {

constexpr int kRowWarps = 4;  // rows of a block

struct Statistics {
  float mean = 0;
  float rstd = 1;
};

/// Of one row, by one warp.
template <class X>
__device__ Statistics statistics(const NormArgs& norm, const X* x, std::int64_t n) {
  const int lane = threadIdx.x % kWarp;
  Statistics s;
  if (norm.kind == NormArgs::Kind::none) return s;
  if (norm.kind == NormArgs::Kind::layer) {
    float sum = 0;
    for (std::int64_t i = lane; i < n; i += kWarp) sum += widen(x[i]);
    s.mean = warp_sum(sum) / static_cast<float>(n);
  }
  float square = 0;
  for (std::int64_t i = lane; i < n; i += kWarp) {
    const float d = widen(x[i]) - s.mean;
    square = fmaf(d, d, square);
  }
  s.rstd = rsqrtf(warp_sum(square) / static_cast<float>(n) + norm.eps);
  return s;
}

__device__ float normalized(const NormArgs& norm, const Statistics& s, float x, std::int64_t i) {
  if (norm.kind == NormArgs::Kind::none) return x;
  float y = (x - s.mean) * s.rstd;
  if (norm.gain) y *= norm.gain[i];
  if (norm.bias) y += norm.bias[i];
  return y;
}

/// A row in its warp's registers, four neighbours a lane at a time: rows of up to 1,024 that are
/// read once.
struct HeldRow {
  static constexpr int kParts = 8;
  float4 part[kParts];
};
__device__ float4 four(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ float4 four(const Bf16* p) {
  const uint2 x = *reinterpret_cast<const uint2*>(p);
  const float2 a = unpack_bf16(x.x), b = unpack_bf16(x.y);
  return {a.x, a.y, b.x, b.y};
}
__device__ void store_four(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
__device__ void store_four(Bf16* p, float4 v) {
  *reinterpret_cast<uint2*>(p) = {pack_bf16(v.x, v.y), pack_bf16(v.z, v.w)};
}
template <class X>
__device__ HeldRow hold(const X* x, std::int64_t n) {
  HeldRow row;
#pragma unroll
  for (int i = 0; i < HeldRow::kParts; ++i) {
    const int at = (i * kWarp + threadIdx.x % kWarp) * 4;
    row.part[i] = at < n ? four(x + at) : float4{0, 0, 0, 0};
  }
  return row;
}
/// Turns the row into norm(row).
__device__ void normalize_held(const NormArgs& norm, std::int64_t n, HeldRow& row) {
  if (norm.kind == NormArgs::Kind::none) return;
  const auto count = static_cast<float>(n);
  float mean = 0;
  if (norm.kind == NormArgs::Kind::layer) {
#pragma unroll
    for (const float4& v : row.part) mean += (v.x + v.y) + (v.z + v.w);
    mean = warp_sum(mean) / count;
  }
  float square = 0;
#pragma unroll
  for (int i = 0; i < HeldRow::kParts; ++i) {
    float4& v = row.part[i];
    if ((i * kWarp + threadIdx.x % kWarp) * 4 >= n) continue;
    v = {v.x - mean, v.y - mean, v.z - mean, v.w - mean};
    square = fmaf(v.x, v.x, fmaf(v.y, v.y, fmaf(v.z, v.z, fmaf(v.w, v.w, square))));
  }
  const float rstd = rsqrtf(warp_sum(square) / count + norm.eps);
#pragma unroll
  for (int i = 0; i < HeldRow::kParts; ++i) {
    float4& v = row.part[i];
    const int at = (i * kWarp + threadIdx.x % kWarp) * 4;
    if (at >= n) continue;
    v = {v.x * rstd, v.y * rstd, v.z * rstd, v.w * rstd};
    if (norm.gain) {
      const float4 g = four(norm.gain + at);
      v = {v.x * g.x, v.y * g.y, v.z * g.z, v.w * g.w};
    }
    if (norm.bias) {
      const float4 b = four(norm.bias + at);
      v = {v.x + b.x, v.y + b.y, v.z + b.z, v.w + b.w};
    }
  }
}
bool can_hold(const MatrixView& x, std::int64_t out_stride) {
  return x.cols <= HeldRow::kParts * kWarp * 4 && x.cols % 4 == 0 && x.stride % 4 == 0 &&
         out_stride % 4 == 0;
}

template <class X, class Y, bool kHeld>
__global__ void normalize_rows(const NormArgs norm, const MatrixView x, const MatrixView out) {
  begin_kernel();
  const std::int64_t m = blockIdx.x * kRowWarps + threadIdx.x / kWarp;
  if (m >= x.rows) return;
  const X* const from = reinterpret_cast<const X*>(x.data) + m * x.stride;
  Y* const to = reinterpret_cast<Y*>(out.data) + m * out.stride;
  if constexpr (kHeld) {
    HeldRow row = hold(from, x.cols);
    normalize_held(norm, x.cols, row);
#pragma unroll
    for (int i = 0; i < HeldRow::kParts; ++i) {
      const int at = (i * kWarp + threadIdx.x % kWarp) * 4;
      if (at < out.cols) store_four(to + at, row.part[i]);
    }
  } else {
    const Statistics s = statistics(norm, from, x.cols);
    for (std::int64_t i = threadIdx.x % kWarp; i < out.cols; i += kWarp)
      to[i] = narrow_to<Y>(i < x.cols ? normalized(norm, s, widen(from[i]), i) : 0.0f);
  }
}

/// Eight lanes take 64 columns, a warp a row.
__global__ void square_groups(const MatrixView x, float* out) {
  begin_kernel();
  const std::int64_t m = blockIdx.x * kRowWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (m >= x.rows) return;
  const Bf16* const row = reinterpret_cast<const Bf16*>(x.data) + m * x.stride;
  for (std::int64_t first = 0; first < x.cols; first += 8 * kWarp) {
    const std::int64_t at = first + lane * 8;
    float sum = 0;
    if (at < x.cols) {
      const uint4 eight = *reinterpret_cast<const uint4*>(row + at);
      for (const std::uint32_t word : {eight.x, eight.y, eight.z, eight.w}) {
        const float2 pair = unpack_bf16(word);
        sum = fmaf(pair.x, pair.x, fmaf(pair.y, pair.y, sum));
      }
    }
    for (int step = 1; step < 8; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (at < x.cols && lane % 8 == 0) out[m * (x.cols / 64) + at / 64] = sum;
  }
}

__device__ std::uint32_t quantized(float4 v, float inverse) {
  const auto byte = [&](float x) {
    return static_cast<std::uint32_t>(__float2int_rn(x * inverse)) & 0xffU;
  };
  return byte(v.x) | byte(v.y) << 8 | byte(v.z) << 16 | byte(v.w) << 24;
}

template <class X, bool kHeld>
__global__ void quantize(const NormArgs norm, const MatrixView x, std::int8_t* out,
                         std::int64_t stride, float* scale) {
  begin_kernel();
  const std::int64_t m = blockIdx.x * kRowWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (m >= x.rows) return;
  const X* const from = reinterpret_cast<const X*>(x.data) + m * x.stride;
  std::int8_t* const to = out + m * stride;
  float top = 0;
  if constexpr (kHeld) {
    HeldRow row = hold(from, x.cols);
    normalize_held(norm, x.cols, row);
#pragma unroll
    for (const float4& v : row.part)
      top = fmaxf(top, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
    top = warp_max(top);
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
#pragma unroll
    for (int i = 0; i < HeldRow::kParts; ++i) {
      const int at = (i * kWarp + lane) * 4;
      if (at < stride) *reinterpret_cast<std::uint32_t*>(to + at) = quantized(row.part[i], inverse);
    }
  } else {
    const Statistics s = statistics(norm, from, x.cols);
    for (std::int64_t i = lane; i < x.cols; i += kWarp)
      top = fmaxf(top, fabsf(normalized(norm, s, widen(from[i]), i)));
    top = warp_max(top);
    const float inverse = top > 0 ? 127.0f / top : 0.0f;
#pragma unroll 4
    for (std::int64_t i = lane; i < stride; i += kWarp)
      to[i] = static_cast<std::int8_t>(
          i < x.cols ? __float2int_rn(normalized(norm, s, widen(from[i]), i) * inverse) : 0);
  }
  if (lane == 0) scale[m] = top / 127.0f;
}

constexpr int kRepeatThreads = 256;
constexpr int kRepeatEach = 4;  // of a thread

/// kWide: four columns at a time.
template <bool kWide>
__global__ void __launch_bounds__(kRepeatThreads) repeat(const MatrixView x, const MatrixView out) {
  using Word = std::conditional_t<kWide, float4, float>;
  constexpr int kVector = kWide ? 4 : 1;
  begin_kernel();
  const auto vectors = static_cast<unsigned>(out.cols / kVector);
  const auto rows = static_cast<unsigned>(x.rows);
  const unsigned first = blockIdx.x * (kRepeatThreads * kRepeatEach) + threadIdx.x;
#pragma unroll
  for (int i = 0; i < kRepeatEach; ++i) {
    const unsigned at = first + i * kRepeatThreads, row = at / vectors;
    const std::int64_t column = static_cast<std::int64_t>(at % vectors) * kVector;
    if (row >= out.rows) return;
    const float* const from = x.data + static_cast<std::int64_t>(row % rows) * x.stride + column;
    *reinterpret_cast<Word*>(out.data + row * out.stride + column) =
        *reinterpret_cast<const Word*>(from);
  }
}

template <class X>
__global__ void mean(const MatrixView x, std::int64_t rows, const MatrixView out) {
  begin_kernel();
  const std::int64_t item = blockIdx.x;
  const X* const from = reinterpret_cast<const X*>(x.data) + item * rows * x.stride;
  for (std::int64_t d = threadIdx.x; d < x.cols; d += blockDim.x) {
    float sum = 0;
    for (std::int64_t r = 0; r < rows; ++r) sum += widen(from[r * x.stride + d]);
    const float y = sum / static_cast<float>(rows);
    if (out.dtype == DType::f32)
      out.data[item * out.stride + d] = y;
    else
      reinterpret_cast<Bf16*>(out.data)[item * out.stride + d] = __float2bfloat16_rn(y);
  }
}

constexpr int kPoolThreads = 512;
constexpr int kPoolColumns = 64;

/// A block 64 columns of an output row: the softmax over the item's rows, then eight groups of
/// threads share the rows.
template <class X>
__global__ void __launch_bounds__(kPoolThreads)
    pool(const MatrixView scores, const MatrixView x, std::int64_t rows, const MatrixView out) {
  constexpr int kGroups = kPoolThreads / kPoolColumns;
  extern __shared__ float weights[];  // [rows]
  __shared__ float sums[kPoolThreads];
  __shared__ float reduced[kPoolThreads / kWarp];
  begin_kernel();
  const std::int64_t o = blockIdx.x, first = o / scores.cols * rows, column = o % scores.cols;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float top = -INFINITY;
  for (std::int64_t r = threadIdx.x; r < rows; r += kPoolThreads) {
    weights[r] = scores.data[(first + r) * scores.stride + column];
    top = fmaxf(top, weights[r]);
  }
  top = warp_max(top);
  if (lane == 0) reduced[warp] = top;
  __syncthreads();
  for (int w = 0; w < kPoolThreads / kWarp; ++w) top = fmaxf(top, reduced[w]);
  __syncthreads();
  float total = 0;
  for (std::int64_t r = threadIdx.x; r < rows; r += kPoolThreads) {
    weights[r] = expf(weights[r] - top);
    total += weights[r];
  }
  total = warp_sum(total);
  if (lane == 0) reduced[warp] = total;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kPoolThreads / kWarp; ++w) total += reduced[w];
  const int group = threadIdx.x / kPoolColumns;
  const std::int64_t d = blockIdx.y * kPoolColumns + threadIdx.x % kPoolColumns;
  float sum = 0;
  if (d < out.cols) {
    const X* const from = reinterpret_cast<const X*>(x.data) + first * x.stride + d;
#pragma unroll 16
    for (std::int64_t r = group; r < rows; r += kGroups)
      sum = fmaf(weights[r], widen(from[r * x.stride]), sum);
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (group != 0 || d >= out.cols) return;
  for (int i = 1; i < kGroups; ++i) sum += sums[i * kPoolColumns + threadIdx.x];
  out.data[o * out.stride + d] = sum / total;
}

}  // namespace

void normalize(const NormArgs& norm, const MatrixView& x, const MatrixView& out,
               cudaStream_t stream) {
  if (x.rows == 0) return;
  const bool wide_in = x.dtype == DType::f32, wide_out = out.dtype == DType::f32;
  const auto choose = [&](auto held) {
    constexpr bool kHeld = decltype(held)::value;
    return wide_in ? (wide_out ? normalize_rows<float, float, kHeld>
                               : normalize_rows<float, Bf16, kHeld>)
                   : (wide_out ? normalize_rows<Bf16, float, kHeld>
                               : normalize_rows<Bf16, Bf16, kHeld>);
  };
  auto* const kernel = can_hold(x, out.stride) && out.cols <= HeldRow::kParts * kWarp * 4
                           ? choose(std::true_type{})
                           : choose(std::false_type{});
  launch(kernel, dim3(blocks_of(x.rows, kRowWarps)), kRowWarps * kWarp, 0, stream, norm, x, out);
}

void square_rows(const MatrixView& x, float* out, cudaStream_t stream) {
  if (x.rows == 0) return;
  launch(square_groups, dim3(blocks_of(x.rows, kRowWarps)), kRowWarps * kWarp, 0, stream, x, out);
}

void quantize_rows(const NormArgs& norm, const MatrixView& x, std::int8_t* out, std::int64_t stride,
                   float* scale, cudaStream_t stream) {
  if (x.rows == 0) return;
  const bool wide = x.dtype == DType::f32;
  auto* const kernel = can_hold(x, stride) && stride <= HeldRow::kParts * kWarp * 4
                           ? (wide ? quantize<float, true> : quantize<Bf16, true>)
                           : (wide ? quantize<float, false> : quantize<Bf16, false>);
  launch(kernel, dim3(blocks_of(x.rows, kRowWarps)), kRowWarps * kWarp, 0, stream, norm, x, out,
         stride, scale);
}

void repeat_rows(const MatrixView& x, const MatrixView& out, cudaStream_t stream) {
  if (out.rows == 0) return;
  // Of a narrow matrix, two columns are one word.
  const auto words = [](const MatrixView& m) {
    const int each = m.dtype == DType::f32 ? 1 : 2;
    return MatrixView{m.data, m.rows, m.cols / each, m.stride / each};
  };
  const MatrixView from = words(x), to = words(out);
  const bool wide = to.cols % 4 == 0 && from.stride % 4 == 0 && to.stride % 4 == 0;
  launch(wide ? repeat<true> : repeat<false>,
         dim3(blocks_of(to.rows * to.cols / (wide ? 4 : 1), kRepeatThreads * kRepeatEach)),
         kRepeatThreads, 0, stream, from, to);
}

void mean_rows(const MatrixView& x, std::int64_t rows, const MatrixView& out, cudaStream_t stream) {
  if (out.rows == 0) return;
  launch(x.dtype == DType::f32 ? mean<float> : mean<Bf16>, dim3(static_cast<unsigned>(out.rows)),
         256, 0, stream, x, rows, out);
}

void softmax_pool(const MatrixView& scores, const MatrixView& x, std::int64_t rows,
                  const MatrixView& out, cudaStream_t stream) {
  if (out.rows == 0) return;
  auto* const kernel = x.dtype == DType::f32 ? pool<float> : pool<Bf16>;
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(rows);
  allow_shared(kernel, bytes);
  launch(kernel, dim3(static_cast<unsigned>(out.rows), blocks_of(out.cols, kPoolColumns)),
         kPoolThreads, bytes, stream, scores, x, rows, out);
}

}  // namespace cortex::cuda
