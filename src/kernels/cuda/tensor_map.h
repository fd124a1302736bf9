#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "kernels/cuda/memory.h"

/// Descriptions of matrices for the copy engine of Hopper.
namespace cortex::cuda {

/// Boxes of 64 rows and 64 columns of a bf16 matrix, swizzled by 128 bytes. `stride` in elements.
CUtensorMap bf16_tensor_map(const void* data, std::int64_t rows, std::int64_t cols,
                            std::int64_t stride);

}  // namespace cortex::cuda
