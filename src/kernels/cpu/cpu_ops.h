#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/step_pool.h"
#include "kernels/cpu/kernels.h"
#include "kernels/ops.h"

namespace cortex {

struct CpuOptions {
  int threads = 1;
  std::string isa = {};  ///< "avx512", "avx2", "scalar"; empty: the best that this machine runs
  std::function<void(int thread)> on_helper = {};  ///< run first by each thread but the caller's
};

/// Instruction sets that this machine runs, best first.
const std::vector<std::string>& cpu_isas();

/// float32, bf16 and int8 on the CPU's vectors. std::invalid_argument for an instruction set that
/// this machine lacks.
std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options);

namespace cpu {

/// A linear's weight in the panels of one instruction set.
class PackedLinear final : public LinearWeight {
 public:
  PackedLinear(const LinearTensor& linear, const Kernels& kernels);
  DType precision() const { return precision_; }
  bool few_outputs() const { return few_outputs_; }  ///< as in GemmArgs
  const std::byte* panels() const { return panels_.as<std::byte>(); }
  std::int64_t panel_count() const { return panel_count_; }
  std::size_t bytes() const override { return panels_.bytes() + scale_.size() * sizeof(float); }
  const float* scale() const { return scale_.empty() ? nullptr : scale_.data(); }

 private:
  DType precision_;
  bool few_outputs_;
  std::int64_t panel_count_;
  Buffer panels_;
  std::vector<float> scale_;
};

class CpuOps final : public Ops {
 public:
  CpuOps(const Kernels& kernels, const CpuOptions& options);

  const char* name() const override { return kernels_.name; }
  Buffer allocate(std::size_t bytes) override;
  void clear(const Buffer& buffer) override;
  void upload(const Buffer& to, const void* host, std::size_t bytes) override;
  void download(void* host, const float* from, std::size_t bytes) override;
  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override;
  DType cache_dtype(DType weights) const override;
  void reserve(const OpsCapacity& capacity) override;
  void begin_forward() override;
  void end_forward() override;

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
  /// Prepared activations; the data of `rows` rows of `inputs` each.
  struct RowMemory {
    std::vector<std::byte> data;
    std::vector<float> scale;
    std::vector<std::int32_t> sum;
    void grow(std::int64_t rows, std::int64_t bytes);
    Rows view(std::int64_t stride);
  };
  struct ThreadMemory {
    RowMemory rows;
    std::uint64_t prepared = 0;  // the linear that `rows` was filled for
    std::vector<std::byte> scratch;
  };

  /// Work of about `flops` in `chunks` parts: shared out where that pays.
  template <class F>
  void share(int chunks, double flops, F&& work);
  std::byte* scratch(int thread, std::size_t bytes);
  void prepare_rows(const PackedLinear& weight, const NormArgs& norm, MatrixView x,
                    std::int64_t begin, std::int64_t end, const Rows& to) const;

  const Kernels& kernels_;
  StepPool pool_;
  bool in_forward_ = false;
  bool shared_ = false;  // whether this forward, or else the last one, had work for helpers
  DType attention_ = DType::f32;  // bf16 once a linear is narrower than float32
  std::uint64_t linear_ = 0;      // counts calls of norm_linear
  RowMemory rows_;
  std::vector<ThreadMemory> memory_;
  std::vector<std::int32_t> low_;  // visible bins of each query
  std::vector<std::int32_t> high_;
};

}  // namespace cpu
}  // namespace cortex
