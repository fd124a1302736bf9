#include "kernels/cuda/device.cuh"
#include "kernels/cuda/gemm_sm90_device.cuh"
#include "kernels/cuda/tune_passes.h"

namespace cortex::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kColumns = 8;  // of a thread

__device__ std::uint32_t hash(std::uint64_t i) {
  std::uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  return static_cast<std::uint32_t>((x ^ (x >> 27)) >> 16);
}
__device__ float unit(std::uint32_t bits) {
  return static_cast<float>(static_cast<std::int32_t>(bits)) * 0x1p-31F;
}

__global__ void fill_bf16(__nv_bfloat16* to, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = __float2bfloat16_rn(unit(hash(static_cast<std::uint64_t>(i))));
}
__global__ void fill_float(float* to, std::int64_t count) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = unit(hash(static_cast<std::uint64_t>(i)));
}
// `mask` keeps the exponents of e4m3 from infinity.
__global__ void fill_bytes(std::uint8_t* to, std::int64_t count, std::uint32_t mask) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) to[i] = static_cast<std::uint8_t>(hash(static_cast<std::uint64_t>(i)) & mask);
}

unsigned blocks(std::int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

template <bool Whole>
__device__ void load(const void* product, std::int64_t at, float (&x)[kColumns]) {
  if constexpr (Whole) {
    const auto* const from =
        reinterpret_cast<const int4*>(static_cast<const std::int32_t*>(product) + at);
    for (int half = 0; half < 2; ++half) {
      const int4 four = from[half];
      x[4 * half] = static_cast<float>(four.x);
      x[4 * half + 1] = static_cast<float>(four.y);
      x[4 * half + 2] = static_cast<float>(four.z);
      x[4 * half + 3] = static_cast<float>(four.w);
    }
  } else {
    const uint4 all =
        *reinterpret_cast<const uint4*>(static_cast<const __nv_bfloat16*>(product) + at);
    const std::uint32_t pairs[4] = {all.x, all.y, all.z, all.w};
    for (int i = 0; i < 4; ++i) {
      const float2 two = unpack_bf16(pairs[i]);
      x[2 * i] = two.x;
      x[2 * i + 1] = two.y;
    }
  }
}

__device__ void store(__nv_bfloat16* to, const float (&x)[kColumns]) {
  *reinterpret_cast<uint4*>(to) = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]),
                                   pack_bf16(x[4], x[5]), pack_bf16(x[6], x[7])};
}

template <GemmEpilogue Epilogue, bool Whole>
__global__ void __launch_bounds__(kThreads) pass_kernel(PassArgs p) {
  const std::int64_t at = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) * kColumns;
  if (at >= std::int64_t{p.m} * p.n) return;
  const auto row = static_cast<int>(at / p.n), column = static_cast<int>(at % p.n);
  float x[kColumns];
  load<Whole>(p.product, at, x);
  const float scale = p.row_scale[row];
  for (int i = 0; i < kColumns; ++i) x[i] *= p.w_scale ? scale * p.w_scale[column + i] : scale;
  constexpr bool kSums = Epilogue == GemmEpilogue::kAdd || Epilogue == GemmEpilogue::kAddNarrow;
  if constexpr (kSums) {
    if constexpr (Epilogue == GemmEpilogue::kAdd) {
      auto* const z = reinterpret_cast<float4*>(p.z + at);
      const float4 low = z[0], high = z[1];
      const float wide[kColumns] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
      for (int i = 0; i < kColumns; ++i) x[i] += wide[i];
      z[0] = {x[0], x[1], x[2], x[3]};
      z[1] = {x[4], x[5], x[6], x[7]};
    } else {
      float before[kColumns];
      load<false>(p.out, at, before);
      for (int i = 0; i < kColumns; ++i) x[i] += before[i];
    }
    float square = 0;
    for (int i = 0; i < kColumns; ++i) square = fmaf(x[i], x[i], square);
    // Eight threads have the 64 columns of a sum.
    for (int step = 4; step > 0; step /= 2) square += __shfl_xor_sync(kAllLanes, square, step);
    if (threadIdx.x % 8 == 0) p.square_out[at / 64] = square;
  }
  if constexpr (Epilogue == GemmEpilogue::kGelu || Epilogue == GemmEpilogue::kGeluE4m3)
    for (int i = 0; i < kColumns; ++i) x[i] = gelu(x[i]);
  if constexpr (Epilogue == GemmEpilogue::kGeluE4m3) {
    *reinterpret_cast<uint2*>(p.narrow8 + at) = {
        sm90::pack_e4m3(x[0], x[1]) | sm90::pack_e4m3(x[2], x[3]) << 16,
        sm90::pack_e4m3(x[4], x[5]) | sm90::pack_e4m3(x[6], x[7]) << 16};
  } else {
    store(p.out + at, x);
  }
}

template <GemmEpilogue Epilogue>
void launch_pass(const PassArgs& args, cudaStream_t stream) {
  const unsigned grid = blocks(std::int64_t{args.m} * args.n / kColumns);
  if (args.whole)
    pass_kernel<Epilogue, true><<<grid, kThreads, 0, stream>>>(args);
  else
    pass_kernel<Epilogue, false><<<grid, kThreads, 0, stream>>>(args);
}

}  // namespace

void fill_random(GemmType type, void* to, std::int64_t count, cudaStream_t stream) {
  if (type == GemmType::kBf16) {
    fill_bf16<<<blocks(count), kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(to), count);
    return;
  }
  fill_bytes<<<blocks(count), kThreads, 0, stream>>>(static_cast<std::uint8_t*>(to), count,
                                                     type == GemmType::kE4m3 ? 0xbfU : 0xffU);
}
void fill_random(float* to, std::int64_t count, cudaStream_t stream) {
  fill_float<<<blocks(count), kThreads, 0, stream>>>(to, count);
}

void epilogue_pass(GemmEpilogue epilogue, const PassArgs& args, cudaStream_t stream) {
  switch (epilogue) {
    case GemmEpilogue::kStore:
      return launch_pass<GemmEpilogue::kStore>(args, stream);
    case GemmEpilogue::kGelu:
      return launch_pass<GemmEpilogue::kGelu>(args, stream);
    case GemmEpilogue::kAdd:
      return launch_pass<GemmEpilogue::kAdd>(args, stream);
    case GemmEpilogue::kAddNarrow:
      return launch_pass<GemmEpilogue::kAddNarrow>(args, stream);
    case GemmEpilogue::kGeluE4m3:
      return launch_pass<GemmEpilogue::kGeluE4m3>(args, stream);
  }
}

}  // namespace cortex::cuda
