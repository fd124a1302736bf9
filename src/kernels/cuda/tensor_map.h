#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/memory.h"

/// Descriptions of matrices for the copy engine of Hopper.
namespace cortex::cuda {

/// Whether the driver can describe a matrix.
bool tensor_maps_supported();
/// Boxes of `box_rows` rows and 128 bytes of a matrix of elements of `bytes` (4: float32, 2: bf16,
/// 1: bytes), swizzled by 128 bytes. `stride` in elements. False: not a matrix that can be
/// described.
bool encode_tensor_map(CUtensorMap* map, const void* data, int bytes, std::int64_t rows,
                       std::int64_t cols, std::int64_t stride, int box_rows,
                       CUtensorMapL2promotion promotion);
/// Boxes of 64 rows and 64 columns of a bf16 matrix, swizzled by 128 bytes. `stride` in elements.
CUtensorMap bf16_tensor_map(const void* data, std::int64_t rows, std::int64_t cols,
                            std::int64_t stride);

}  // namespace cortex::cuda
