#pragma once

#include "kernels/cuda/gemm_sm90.h"

namespace cortex::cuda {

inline constexpr int kLatentHeadDim = 64;

/// Self-attention among the latents of windows, from its projection to its result, in one kernel:
/// q, k and v of a head never leave the multiprocessors that need them.
///
/// `project` is the product [m, n] of the q, k and v of all heads, n = 3 heads *
/// kLatentHeadDim and m = items * latents; its `out` is the result, [m, n / 3]. q, k and v are
/// rounded to bf16, as they would be between two kernels.
///
/// Returns cudaErrorInvalidValue for what latent_attention_sm90_takes() does not.
cudaError_t latent_attention_sm90(const GemmSm90Args& project, int latents, cudaStream_t stream);

/// Whether that kernel is for weights of this type, so many windows, latents of each and heads, and
/// sooner done than a kernel for each of the two operations.
bool latent_attention_sm90_takes(GemmType type, int items, int latents, int heads);

}  // namespace cortex::cuda
