#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <vector>

#include "cuda_fixture.h"
#include "kernels/cuda/gemm_sm90.h"

namespace cortex::testing {

inline std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

/// Blocks of a model on a Hopper GPU, and a stream to run them on. `AnyOrder`: of the sums of its
/// linears.
template <bool AnyOrder>
class CudaBlocks : public CudaKernels {
 protected:
  void SetUp() override {
    CudaKernels::SetUp();
    if (IsSkipped()) return;
    if (!cuda::gemm_sm90_supported(cuda_devices().front().index))
      GTEST_SKIP() << "no Hopper GPU: all blocks in one kernel were not run";
    ASSERT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
  }
  void TearDown() override {
    if (stream_) (void)cudaStreamDestroy(stream_);
  }

  const LinearWeight* linear(int out, int in, const std::vector<float>* gain = nullptr) {
    Tensor rows({out, in});
    const auto scale = 1 / std::sqrt(static_cast<float>(in));
    std::size_t at = size(below(static_cast<int>(draws_.size())));
    for (float& x : rows.f32()) x = scale * draws_[at++ % draws_.size()];
    const Tensor narrow = to_bfloat16(rows);
    const Tensor of_gain = gain ? tensor_of(*gain, {in}) : Tensor({1});
    linears_.push_back(ops_->pack_linear(
        {.weight = narrow, .gain = gain ? &of_gain : nullptr, .any_order = AnyOrder}));
    return linears_.back().get();
  }
  /// In place of those that there were, and of all memory.
  void make_blocks(int count, int dim) {
    linears_.clear();
    memory_.clear();
    blocks_.clear();
    cross_out_ = linear(dim, dim);
    const auto norm = [&](std::vector<float>& gain) {
      gain = normal(size(dim));
      return NormArgs{NormArgs::Kind::rms, put(gain), nullptr, 1e-6F};
    };
    for (int i = 0; i < count; ++i) {
      TransformerBlock block;
      std::vector<float> gain;
      block.norm_attn = norm(gain);
      block.qkv = linear(3 * dim, dim, &gain);
      block.out = linear(dim, dim);
      block.norm_mlp = norm(gain);
      block.up = linear(4 * dim, dim, &gain);
      block.down = linear(dim, 4 * dim);
      blocks_.push_back(block);
    }
  }

  /// Attention among the latents of each of `windows`, q, k and v being columns of `qkv`; and room
  /// for it and for the linears of its blocks in ops_.
  OpsCapacity attend_latents(RaggedAttentionArgs& a, int windows, int heads,
                             const MatrixView& qkv) {
    const std::int64_t dim = qkv.cols / 3, latents = qkv.rows / windows;
    a.items = windows;
    a.heads = heads;
    a.head_dim = static_cast<int>(dim) / heads;
    a.queries = latents;
    a.q = qkv;
    a.k = qkv.from_column(dim);
    a.v = qkv.from_column(2 * dim);
    std::vector<std::int32_t> indptr;
    for (int i = 0; i <= windows; ++i) indptr.push_back(static_cast<std::int32_t>(i * latents));
    a.indptr = put(indptr);
    OpsCapacity capacity;
    capacity.rows = capacity.queries = qkv.rows;
    capacity.inputs = 4 * dim;
    capacity.keys = latents;
    capacity.head_dim = a.head_dim;
    ops_->reserve(capacity);
    return capacity;
  }

  const LinearWeight* cross_out_ = nullptr;
  std::vector<TransformerBlock> blocks_;
  cudaStream_t stream_ = nullptr;

 private:
  std::vector<float> draws_ = normal(1000003);  // the weights are runs of it
  std::vector<std::unique_ptr<LinearWeight>> linears_;
};

}  // namespace cortex::testing
