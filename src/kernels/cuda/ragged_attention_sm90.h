#pragma once

#include <cuda_runtime_api.h>

#include "kernels/ops.h"

/// Attention of windows on Hopper's tensor cores (sm_90a): bf16 throughout, heads of 64.
namespace cortex::cuda {

/// Whether the views are such that ragged_attention_sm90() takes them. Says nothing of the device.
bool ragged_attention_sm90_takes(const RaggedAttentionArgs& args);

/// Queues the attention on `stream`, of a device that gemm_sm90_supported() knows. No allocation,
/// no synchronisation. Which keys are summed together depends on the sizes: a tolerance, not bits.
void ragged_attention_sm90(const RaggedAttentionArgs& args, cudaStream_t stream);

}  // namespace cortex::cuda
