#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/gemm_table.h"

namespace cortex::cuda {

/// Values of no pattern and of order 1: bf16 and float32 in [-1, 1), any int8, e4m3 below 2.
void fill_random(GemmType type, void* to, std::int64_t count, cudaStream_t stream);
void fill_random(float* to, std::int64_t count, cudaStream_t stream);

/// What a bare product leaves to be done of an epilogue, in one pass over dense rows.
struct PassArgs {
  const void* product = nullptr;  ///< [m, n] bf16, or s32 of int8
  bool whole = false;             ///< it is s32
  int m = 0;
  int n = 0;                         ///< a multiple of 64; m n is a multiple of 256
  const float* row_scale = nullptr;  ///< [m]
  const float* w_scale = nullptr;    ///< [n], or null
  __nv_bfloat16* out = nullptr;      ///< [m, n] kStore, kGelu; read and written by kAddNarrow
  float* z = nullptr;                ///< [m, n] kAdd, read and written
  float* square_out = nullptr;       ///< [m, n / 64] kAdd, kAddNarrow
  std::uint8_t* narrow8 = nullptr;   ///< [m, n] kGeluE4m3
};
void epilogue_pass(GemmEpilogue epilogue, const PassArgs& args, cudaStream_t stream);

}  // namespace cortex::cuda
