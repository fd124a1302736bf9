#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/ops.h"

/// Every launch that CudaOps makes. All are asynchronous on `stream`, and none allocates.
namespace cortex::cuda {

/// out [m, n] = epilogue(factor[m] * scale[n] * (x [m, k] . w [n, k]) + bias[n]).
struct LinearArgs {
  DType precision = DType::f32;  ///< of w; x is bf16 or i8 likewise, or for f32 of x_dtype
  DType x_dtype = DType::f32;
  const void* x = nullptr;
  std::int64_t x_stride = 0;  ///< elements
  const void* w = nullptr;    ///< rows of `w_stride` elements, 0 beyond k
  std::int64_t w_stride = 0;
  int m = 0;
  int n = 0;
  int k = 0;
  const float* w_scale = nullptr;  ///< [n] i8
  const float* x_scale = nullptr;  ///< [m] i8
  /// Squares of the rows that x is the narrow copy of, summed by pairs of columns, [m, k / 8, 4]:
  /// the factor is then 1 / rms. Null: 1.
  const float* squares = nullptr;
  float eps = 0;
  const float* bias = nullptr;
  Epilogue epilogue = Epilogue::store;
  void* out = nullptr;
  std::int64_t out_stride = 0;
  DType out_dtype = DType::f32;
  /// Epilogue::add, or null: the sums in bf16 [m, n], and their squares by pairs [m, n / 8, 4].
  __nv_bfloat16* narrow = nullptr;
  float* squares_out = nullptr;
};

/// Columns that the rows of w are padded to.
constexpr std::int64_t kLinearBytes = 256;
void linear(const LinearArgs& args, cudaStream_t stream);

void normalize(const NormArgs& norm, const MatrixView& x, const MatrixView& out,
               cudaStream_t stream);
/// Sums of squares of every 64 columns of bf16 rows, out [rows, cols / 64].
void square_rows(const MatrixView& x, float* out, cudaStream_t stream);
/// Hopper: bf16 rows to e4m3, each times the power of two that its sums of squares over 64 columns
/// choose. out [rows, cols]; scale [rows], what a row of `out` is times to be x.
void narrow8_rows(const MatrixView& x, const float* squares, std::uint8_t* out, float* scale,
                  cudaStream_t stream);
/// Rows of norm(x), each to int8 by its own scale: out [rows, stride], 0 beyond x.cols.
void quantize_rows(const NormArgs& norm, const MatrixView& x, std::int8_t* out, std::int64_t stride,
                   float* scale, cudaStream_t stream);
/// x float32, out float32 or bf16.
void repeat_rows(const MatrixView& x, const MatrixView& out, cudaStream_t stream);
void mean_rows(const MatrixView& x, std::int64_t rows, const MatrixView& out, cudaStream_t stream);
void softmax_pool(const MatrixView& scores, const MatrixView& x, std::int64_t rows,
                  const MatrixView& out, cudaStream_t stream);
/// LatentHeadArgs with the weights' rows, dense.
struct LatentHeadPlan {
  const void* x = nullptr;  ///< [rows, dim], rows of 16 aligned bytes
  std::int64_t x_stride = 0;
  DType x_dtype = DType::f32;
  int rows = 0;
  int dim = 0;
  int latents = 0;
  int heads = 0;
  int scores = 0;  ///< outputs * heads
  const float* first_gain = nullptr;
  const float* second_gain = nullptr;
  float first_eps = 0;
  float second_eps = 0;
  const float* score = nullptr;  ///< [scores, dim]
  const float* value = nullptr;  ///< [heads, dim]
  float* products = nullptr;     ///< [items, scores + heads, latents], in the room of the keys
  float* out = nullptr;
  std::int64_t out_stride = 0;
};
/// Whether the norms, types and sizes are such that latent_head() takes them.
bool latent_head_fuses(const LatentHeadArgs& args);
void latent_head(const LatentHeadPlan& plan, cudaStream_t stream);
void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                    const MatrixView& out, cudaStream_t stream);
/// `hopper`: the device runs the kernels of sm_90a.
void ragged_attention(const RaggedAttentionArgs& args, bool hopper, cudaStream_t stream);
/// Ops::stream_inputs() as one launch. What has no steps or no data is left out.
void stream_inputs(const PhaseArgs& phases, const StreamTables& tables, const StreamEvents& events,
                   const MatrixView& sums, const MatrixView& attention, cudaStream_t stream);
/// Ops::norm_concat_linear() of an RMS norm, the inputs of `w` [out.cols, R * x.cols] rounded to
/// its dtype, float32 or bf16.
void norm_concat_linear(const NormArgs& norm, const MatrixView& x, const void* w, DType w_dtype,
                        std::int64_t w_stride, const float* bias, const MatrixView& out,
                        cudaStream_t stream);
/// hopper: on kernels of sm_90.
void paged_attention(const PagedAttentionArgs& args, bool hopper, cudaStream_t stream);
void paged_attention_sm90(const PagedAttentionArgs& args, cudaStream_t stream);

}  // namespace cortex::cuda
