#pragma once

#include <atomic>

#include "kernels/cuda/gemm_sm90_device.cuh"
#include "kernels/cuda/tensor_map.h"

/// What the host does before it launches a product of sm_90a.
namespace cortex::cuda::sm90 {

inline bool encode(CUtensorMap* map, const void* data, int bytes, std::int64_t rows,
                   std::int64_t columns, std::int64_t stride, int box_rows) {
  return encode_tensor_map(map, data, bytes, rows, columns, stride, box_rows,
                           CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
}

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

constexpr int kMaxDevices = 64;

// Multiprocessors of the current device, asked once each.
inline cudaError_t processors_of(int device, int* count) {
  static std::atomic<int> known[kMaxDevices];
  *count = device < kMaxDevices ? known[device].load(std::memory_order_relaxed) : 0;
  if (*count > 0) return cudaSuccess;
  const cudaError_t error = cudaDeviceGetAttribute(count, cudaDevAttrMultiProcessorCount, device);
  if (error == cudaSuccess && device < kMaxDevices) known[device].store(*count);
  return error;
}

constexpr int element_bytes(GemmType type) { return type == GemmType::kBf16 ? 2 : 1; }

struct Launch {
  KernelArgs args;
  dim3 grid;
  int threads, shared, cluster_x, cluster_z;
  bool pdl;
  cudaStream_t stream;
};

/// `attributes` are the configuration's.
template <auto Kernel>
cudaError_t configure(const Launch& how, cudaLaunchConfig_t& config,
                      cudaLaunchAttribute (&attributes)[2]) {
  unsigned count = 0;
  if (how.cluster_x * how.cluster_z > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count].val.clusterDim.x = static_cast<unsigned>(how.cluster_x);
    attributes[count].val.clusterDim.y = 1;
    attributes[count].val.clusterDim.z = static_cast<unsigned>(how.cluster_z);
    ++count;
  }
  if (how.pdl) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count].val.programmaticStreamSerializationAllowed = 1;
    ++count;
  }
  config.gridDim = how.grid;
  config.blockDim = dim3(static_cast<unsigned>(how.threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(how.shared);
  config.stream = how.stream;
  config.attrs = attributes;
  config.numAttrs = count;
  // Anew every time: a device that was reset has forgotten it.
  return cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedLimit);
}

template <auto Kernel>
cudaError_t launch(const Launch& how) {
  cudaLaunchAttribute attributes[2];
  cudaLaunchConfig_t config{};
  const cudaError_t error = configure<Kernel>(how, config, attributes);
  return error != cudaSuccess ? error : cudaLaunchKernelEx(&config, Kernel, how.args);
}

inline bool aligned(const void* p, std::uintptr_t bytes) {
  return p != nullptr && reinterpret_cast<std::uintptr_t>(p) % bytes == 0;
}

/// What every product asks of its inputs.
inline bool valid_inputs(const GemmSm90Args& args) {
  const int bytes = element_bytes(args.type);
  bool good = args.m > 0 && args.n > 0 && args.k > 0 && args.n % 64 == 0 && args.k % 64 == 0 &&
              aligned(args.a, 16) && aligned(args.w, 16) && args.lda * bytes % 16 == 0 &&
              args.lda >= args.k;
  good = good && (args.square == nullptr || args.square_parts > 0);
  good = good && (args.square == nullptr || args.square_parts % 4 != 0 || aligned(args.square, 16));
  return good &&
         (args.w_scale == nullptr || (args.type != GemmType::kBf16 && aligned(args.w_scale, 8)));
}

/// All but the tensor maps and what becomes of the product.
inline void take_inputs(KernelArgs& to, const GemmSm90Args& args) {
  to.m = args.m;
  to.n = args.n;
  to.k_tiles = ceil_div(args.k * element_bytes(args.type), kSliceBytes);
  to.square_parts = args.square_parts;
  to.k_elements = static_cast<float>(args.k);
  to.eps = args.eps;
  to.a_factor = args.a_factor;
  to.square = args.square;
  to.a_scale = args.a_scale;
  to.w_scale = args.w_scale;
}

}  // namespace cortex::cuda::sm90
