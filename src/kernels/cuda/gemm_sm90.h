#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/cuda/gemm_table.h"

/// Matrix products of Hopper (sm_90a) with the epilogues of a transformer block.
///
///     x[m, n] = factor[m] * sum_k A[m, k] * W[n, k]          (accumulated in f32; s32 for int8)
///     factor[m] = rsqrt(sum_p square[m, p] / K + eps)        (1 where `square` is null)
///               * a_scale[m] * a_factor                      (a_scale 1 where it is null)
///     and, where `w_scale` is not null, x[m, n] *= w_scale[n].
///
/// `square` carries partial sums of squares of a row that has yet to be normalised, so an RMSNorm
/// in front of the product costs nothing: its gain is folded into W. The sums are added in
/// ascending p.
///
/// Same arguments, same shape: same bits. There are no atomics; every element has one writer.
namespace cortex::cuda {

struct GemmSm90Args {
  GemmType type = GemmType::kBf16;  ///< of both A and W
  int m = 0;                        ///< rows of A, any number of them
  int n = 0;                        ///< rows of W, a multiple of 64
  int k = 0;                        ///< a multiple of 64
  const void* a = nullptr;          ///< [m, k], 16-byte aligned
  std::int64_t lda = 0;             ///< elements between rows of A; a multiple of 16 bytes
  const void* w = nullptr;          ///< [n, k] dense, 16-byte aligned. With `pdl`, weights: the
                                    ///< kernel before this one in the stream must not write them

  const float* square = nullptr;   ///< [m, square_parts], or null
  int square_parts = 0;            ///< partial sums a row
  float eps = 0;                   ///< added to the mean square
  const float* a_scale = nullptr;  ///< [m], or null
  float a_factor = 1;
  const float* w_scale = nullptr;  ///< [n], 8-byte aligned, or null; not of kBf16

  __nv_bfloat16* out = nullptr;  ///< kStore, kGelu: [m, n], 16-byte aligned
  std::int64_t ldo = 0;          ///< elements between rows of `out`, a multiple of 8

  float* z = nullptr;               ///< kAdd: [m, n], read and written, 16-byte aligned
  std::int64_t ldz = 0;             ///< elements between rows of `z`, a multiple of 4
  __nv_bfloat16* narrow = nullptr;  ///< kAdd, kAddNarrow: [m, n], 16-byte aligned
  std::int64_t ld_narrow = 0;       ///< elements between rows of `narrow`, a multiple of 8
  float* square_out = nullptr;      ///< kAdd, kAddNarrow: [m, n / 64], sums over 64 columns each

  /// kGeluE4m3: the result. kAddNarrow, or null: narrow times a power of two of each row, which the
  /// sums of squares of the row as it was before choose: then `square` holds those and is no
  /// factor.
  std::uint8_t* narrow8 = nullptr;     ///< [m, n], 16-byte aligned
  std::int64_t ld_narrow8 = 0;         ///< a multiple of 16
  float narrow8_scale = 1;             ///< kGeluE4m3
  float* narrow8_row_scale = nullptr;  ///< kAddNarrow: [m], what a row of narrow8 is times to be z

  /// Sums in the order of linear.cu, whatever m is: a row has the same bits in any batch and from
  /// either file's kernels.
  bool chains = false;

  bool pdl = false;  ///< launch while the kernel before still drains (programmatic dependence)

  int config = -1;  ///< a tiling of `GemmSm90Config`, or -1: chosen by shape
  int stages = 0;   ///< slices of K in flight, at most 8; kSmall alone. 0: chosen
  int split = 0;    ///< parts of K, 1, 2, 4 or 8 blocks of a cluster; kSmall alone. 0: chosen
};

/// Queues the product on `stream`. No allocation and no synchronisation: safe under graph capture.
/// Returns cudaErrorInvalidValue for a shape or an alignment outside what the struct names, and
/// cudaErrorNotSupported where the driver has no tensor maps.
cudaError_t gemm_sm90(const GemmSm90Args& args, GemmEpilogue epilogue, cudaStream_t stream);

/// Whether `device` runs these kernels: compute capability 9.0, built in for sm_90a.
bool gemm_sm90_supported(int device);

}  // namespace cortex::cuda
