#include "kernels/cuda/gemm_sm90_device.cuh"
#include "kernels/cuda/launch.h"

/// Rows to 8-bit floats outside a product's epilogue.
namespace cortex::cuda {
namespace {

constexpr int kRowWarps = 4;  // rows of a block

__global__ void narrow8(const MatrixView x, const float* squares, std::uint8_t* out, float* scale) {
  begin_kernel();
  const std::int64_t m = blockIdx.x * kRowWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (m >= x.rows) return;
  const std::int64_t parts = x.cols / 64;
  float sum = 0;
  for (std::int64_t i = lane; i < parts; i += kWarp) sum += squares[m * parts + i];
  const float power = sm90::row_power(warp_sum(sum), static_cast<float>(x.cols));
  const Bf16* const row = reinterpret_cast<const Bf16*>(x.data) + m * x.stride;
  for (std::int64_t at = lane * 8; at < x.cols; at += kWarp * 8) {
    const uint4 eight = *reinterpret_cast<const uint4*>(row + at);
    const auto bytes = [&](std::uint32_t low, std::uint32_t high) {
      const float2 a = unpack_bf16(low), b = unpack_bf16(high);
      return sm90::pack_e4m3(a.x * power, a.y * power) | sm90::pack_e4m3(b.x * power, b.y * power)
                                                             << 16;
    };
    *reinterpret_cast<uint2*>(out + m * x.cols + at) = {bytes(eight.x, eight.y),
                                                        bytes(eight.z, eight.w)};
  }
  if (lane == 0) scale[m] = 1.0f / power;
}

}  // namespace

void narrow8_rows(const MatrixView& x, const float* squares, std::uint8_t* out, float* scale,
                  cudaStream_t stream) {
  if (x.rows == 0) return;
  launch(narrow8, dim3(blocks_of(x.rows, kRowWarps)), kRowWarps * kWarp, 0, stream, x, squares, out,
         scale);
}

}  // namespace cortex::cuda
