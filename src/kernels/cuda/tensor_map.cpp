#include "kernels/cuda/tensor_map.h"

namespace cortex::cuda {
namespace {

using EncodeTiled = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                 const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                 const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                 CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/// Null where the driver has none.
EncodeTiled encoder() {
  static const EncodeTiled found = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult status{};
#if CUDART_VERSION >= 12050
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry,
                                                               12000, cudaEnableDefault, &status);
#else
    const cudaError_t error =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &entry, cudaEnableDefault, &status);
#endif
    if (error != cudaSuccess || status != cudaDriverEntryPointSuccess) entry = nullptr;
    return reinterpret_cast<EncodeTiled>(entry);
  }();
  return found;
}

}  // namespace

bool tensor_maps_supported() { return encoder() != nullptr; }

bool encode_tensor_map(CUtensorMap* map, const void* data, int bytes, std::int64_t rows,
                       std::int64_t cols, std::int64_t stride, int box_rows,
                       CUtensorMapL2promotion promotion) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(cols), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride * bytes)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(128 / bytes),
                             static_cast<cuuint32_t>(box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  const CUtensorMapDataType type = bytes == 4   ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
                                   : bytes == 2 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                : CU_TENSOR_MAP_DATA_TYPE_UINT8;
  return tensor_maps_supported() &&
         encoder()(map, type, 2, const_cast<void*>(data), sizes, strides, box, steps,
                   CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, promotion,
                   CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

CUtensorMap bf16_tensor_map(const void* data, std::int64_t rows, std::int64_t cols,
                            std::int64_t stride) {
  CUtensorMap map;
  if (!encode_tensor_map(&map, data, 2, rows, cols, stride, 64, CU_TENSOR_MAP_L2_PROMOTION_L2_128B))
    check(cudaErrorInvalidValue, "cuTensorMapEncodeTiled");
  return map;
}

}  // namespace cortex::cuda
