#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/ops.h"

/// What one instruction set does for the CPU backend. The same source (gemm_impl.h,
/// attention_impl.h, stream_impl.h) is compiled once for each set; nothing outside those files
/// knows a vector.
namespace cortex::cpu {

/// Activations as a precision multiplies them; i8 rows carry their scale and their sum.
struct Rows {
  std::byte* data = nullptr;
  std::int64_t stride = 0;  ///< bytes
  float* scale = nullptr;
  std::int32_t* sum = nullptr;
};

/// How an instruction set lays out weights: panels of `columns` outputs, each [inputs / group,
/// columns, group], outputs and inputs padded with zeros.
struct Format {
  int columns = 0;
  int group = 1;
  int activation_bytes = 4;
  int weight_bytes = 4;
  int weight_offset = 0;  ///< added to an int8 weight
};

/// A part of a linear: rows [row_begin, row_end) of one panel's outputs. A linear with few outputs
/// has no panels: its weights are [outputs, padded_inputs()], each result a dot product.
struct GemmArgs {
  DType precision = DType::f32;
  Rows a;
  std::int64_t inputs = 0;
  std::int64_t outputs = 0;
  const std::byte* weights = nullptr;
  const float* weight_scale = nullptr;  ///< i8, [outputs]
  const float* bias = nullptr;          ///< [outputs] or null
  Epilogue epilogue = Epilogue::store;
  MatrixView out;
  bool few_outputs = false;
  std::int64_t panel = 0;
  std::int64_t row_begin = 0;
  std::int64_t row_end = 0;
  std::byte* scratch = nullptr;  ///< gemm_scratch_bytes()
};
constexpr std::int64_t kGemmRows = 128;  ///< most rows of one GemmArgs

/// Whether a panel would hold more padding than weights.
inline bool few_outputs(std::int64_t outputs, const Format& f) { return 2 * outputs < f.columns; }
/// A prepared row is padded with zeros to whole vectors of any instruction set.
constexpr std::int64_t kRowPadding = 64;
inline std::int64_t padded_inputs(std::int64_t inputs) {
  return (inputs + kRowPadding - 1) / kRowPadding * kRowPadding;
}

/// Dense or masked attention of one head of one item.
struct HeadAttentionArgs {
  DType precision = DType::f32;  ///< f32 or bf16
  int head_dim = 0;
  std::int64_t queries = 0;
  MatrixView q;  ///< [queries, head_dim] within wider rows
  std::int64_t keys = 0;
  MatrixView k;
  MatrixView v;
  MatrixView out;
  /// Query i sees key j only where low[i] <= key_bins[j] <= high[i]; null: dense.
  const std::int32_t* key_bins = nullptr;
  const std::int32_t* low = nullptr;
  const std::int32_t* high = nullptr;
  std::byte* scratch = nullptr;  ///< head_attention_scratch_bytes()
};
constexpr int kMaxHeadDim = 256;
constexpr std::int64_t kKeyBlock = 1024;  ///< keys of one pass of the online softmax

/// Some heads of one stream.
struct StreamHeadArgs {
  int stream = 0;
  int head = 0;              ///< the first
  int heads = 1;             ///< of cross-attention; the paged one takes them one by one
  float* scratch = nullptr;  ///< stream_scratch_bytes()
};
inline std::size_t stream_scratch_bytes(std::int64_t keys, int latents, int head_dim) {
  constexpr std::int64_t kQueries = 4, kLane = 16, kLines = 8;
  const std::int64_t floats = (keys + 2) * (latents + kLane + 2 * kQueries + 2) +
                              latents * (head_dim + 2 * kLane) + 4 * kLane + kLines * kLane;
  return static_cast<std::size_t>(floats) * sizeof(float);
}

struct Kernels {
  const char* name;
  int lanes;      ///< floats of a vector
  bool bf16_dot;  ///< multiplies bf16 as such, not widened to float32
  Format (*format)(DType precision);

  void (*prepare)(DType precision, const NormArgs& norm, const float* x, std::int64_t n,
                  const Rows& to, std::int64_t row);
  void (*normalize)(const NormArgs& norm, const float* x, std::int64_t n, float* out);
  /// K and V of event e's token; `token` has room for dim floats.
  void (*project_token)(const TokenArgs& tokens, const TokenProjection& projection, std::int64_t e,
                        float* token, float* out);
  std::size_t (*gemm_scratch_bytes)();
  void (*gemm)(const GemmArgs& args);

  std::size_t (*head_attention_scratch_bytes)(std::int64_t queries, int head_dim);
  void (*head_attention)(const HeadAttentionArgs& args);

  /// Softmax down the columns of scores [rows, columns], contiguous, not divided by `totals`.
  void (*soften_columns)(float* scores, std::int64_t rows, int columns, float* totals);
  /// out[c] = sum_r weights[r, c] x[r] / totals[c] for the columns [begin, end) of x.
  void (*pool_columns)(const float* weights, std::int64_t rows, int columns, const float* totals,
                       MatrixView x, std::int64_t begin, std::int64_t end, MatrixView out);
  /// Columns [begin, end) of a stream's [R * dim] latents with its events' additive rows.
  void (*additive_bag)(const StreamTables& tables, const StreamEvents& events, std::int32_t stream,
                       std::int64_t begin, std::int64_t end, float* out);
  void (*stream_cross)(const StreamTables& tables, const StreamEvents& events, MatrixView out,
                       const StreamHeadArgs& which);
  void (*paged)(const PagedAttentionArgs& args, const StreamHeadArgs& which);
};

const Kernels& scalar_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512_bf16_kernels();
#endif

}  // namespace cortex::cpu
