#pragma once

#include <vector>

#include "kernels/ops.h"

namespace cortex {

class ReferenceOps final : public Ops {
 public:
  const char* name() const override { return "reference"; }
  Buffer allocate(std::size_t bytes) override;
  void clear(const Buffer& buffer) override;
  void upload(const Buffer& to, const void* host, std::size_t bytes) override;
  void download(void* host, const float* from, std::size_t bytes) override;
  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override;
  DType cache_dtype(DType) const override { return DType::f32; }
  void reserve(const OpsCapacity& capacity) override { reserve_scores(capacity.keys); }
  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override;
  void normalize(const NormArgs& norm, MatrixView x, MatrixView out) override;
  void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                      MatrixView out) override;
  void ragged_attention(const RaggedAttentionArgs& args) override;
  void softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows, MatrixView out) override;
  void mean_rows(MatrixView x, std::int64_t rows, MatrixView out) override;
  void additive_bag(const StreamTables& tables, const StreamEvents& events,
                    MatrixView out) override;
  void stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                              MatrixView out) override;
  void paged_attention(const PagedAttentionArgs& args) override;

 private:
  void reserve_scores(std::int64_t keys);
  static void rotate_append(const PagedAttentionArgs& args);
  std::vector<float> rows_;    // normalised rows of one block of a linear
  std::vector<float> scores_;  // one query's scores
};

namespace reference {

/// Sum of a[i] * b[i] in 16 lanes, then the lanes pairwise: an order that depends on n alone and
/// that the compiler may vectorise without being allowed to reorder anything.
float dot(const float* a, const float* b, std::int64_t n);

/// scores[0, n) becomes softmax weights in place. n at least 1.
void softmax(float* scores, std::int64_t n);

}  // namespace reference
}  // namespace cortex
