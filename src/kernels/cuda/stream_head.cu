#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// The last of a stream's forward: its step's rows, normed, side by side, times a few rows of
/// weights.
namespace cortex::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kVector = 8;

struct Eight {
  float x[kVector];
};
__device__ Eight eight(const Bf16* p) {
  const uint4 words = *reinterpret_cast<const uint4*>(p);
  const float2 a = unpack_bf16(words.x), b = unpack_bf16(words.y), c = unpack_bf16(words.z),
               d = unpack_bf16(words.w);
  return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
}
__device__ Eight eight(const float* p) {
  const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  return {{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}

/// A block a step: a warp a row of x, then a warp a part of the inputs of every output.
template <class W>
__global__ void __launch_bounds__(kThreads)
    head(const NormArgs norm, const MatrixView x, int rows, const W* w, std::int64_t w_stride,
         const float* bias, const MatrixView out) {
  extern __shared__ __align__(16) unsigned char memory[];
  const auto cols = static_cast<int>(x.cols), inputs = rows * cols;
  W* const normed = reinterpret_cast<W*>(memory);                  // [inputs]
  float* const parts = reinterpret_cast<float*>(normed + inputs);  // [outputs][kWarps]
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const auto outputs = static_cast<int>(out.cols);
  const std::int64_t b = blockIdx.x;
  begin_kernel();
  for (int r = warp; r < rows; r += kWarps) {
    const float* const row = x.data + (b * rows + r) * x.stride;
    float square = 0;
#pragma unroll 1
    for (int d = lane * kVector; d < cols; d += kWarp * kVector) {
      const Eight v = eight(row + d);
#pragma unroll
      for (const float y : v.x) square = fmaf(y, y, square);
    }
    const float rstd = rsqrtf(warp_sum(square) / static_cast<float>(cols) + norm.eps);
#pragma unroll 1
    for (int d = lane * kVector; d < cols; d += kWarp * kVector) {
      const Eight v = eight(row + d), gain = eight(norm.gain + d);
#pragma unroll
      for (int i = 0; i < kVector; ++i)
        normed[r * cols + d + i] = narrow_to<W>(v.x[i] * rstd * gain.x[i]);
    }
  }
  __syncthreads();
#pragma unroll 2
  for (int o = 0; o < outputs; ++o) {
    float sum = 0;
#pragma unroll 1
    for (int d = static_cast<int>(threadIdx.x) * kVector; d < inputs; d += kThreads * kVector) {
      const Eight y = eight(normed + d), factor = eight(w + o * w_stride + d);
#pragma unroll
      for (int i = 0; i < kVector; ++i) sum = fmaf(y.x[i], factor.x[i], sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) parts[o * kWarps + warp] = sum;
  }
  __syncthreads();
  for (int o = static_cast<int>(threadIdx.x); o < outputs; o += kThreads) {
    float sum = bias ? bias[o] : 0.0f;
#pragma unroll
    for (int i = 0; i < kWarps; ++i) sum += parts[o * kWarps + i];
    out.data[b * out.stride + o] = sum;
  }
}

template <class W>
void launch_head(const NormArgs& norm, const MatrixView& x, const void* w, std::int64_t w_stride,
                 const float* bias, const MatrixView& out, cudaStream_t stream) {
  const std::int64_t rows = x.rows / out.rows;
  const std::size_t bytes = static_cast<std::size_t>(rows * x.cols) * sizeof(W) +
                            static_cast<std::size_t>(out.cols) * kWarps * sizeof(float);
  allow_shared(head<W>, bytes);
  launch(head<W>, dim3(static_cast<unsigned>(out.rows)), kThreads, bytes, stream, norm, x,
         static_cast<int>(rows), static_cast<const W*>(w), w_stride, bias, out);
}

}  // namespace

void norm_concat_linear(const NormArgs& norm, const MatrixView& x, const void* w, DType w_dtype,
                        std::int64_t w_stride, const float* bias, const MatrixView& out,
                        cudaStream_t stream) {
  if (out.rows == 0) return;
  if (w_dtype == DType::f32)
    launch_head<float>(norm, x, w, w_stride, bias, out, stream);
  else
    launch_head<Bf16>(norm, x, w, w_stride, bias, out, stream);
}

}  // namespace cortex::cuda
