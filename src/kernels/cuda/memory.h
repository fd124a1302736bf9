#pragma once

#include <cuda_runtime.h>

#include <cstddef>

#include "kernels/ops.h"

namespace cortex::cuda {

/// DeviceError that names the call; std::bad_alloc where memory did not suffice.
void check(cudaError_t status, const char* call);

/// Of the current device.
Buffer device_memory(std::size_t bytes);

}  // namespace cortex::cuda
