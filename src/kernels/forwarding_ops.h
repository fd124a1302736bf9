#pragma once

#include <memory>

#include "kernels/ops.h"

namespace cortex {

/// Hands every operation to another backend, which outlives it: what a class that changes or
/// watches some of them starts from.
class ForwardingOps : public Ops {
 public:
  explicit ForwardingOps(Ops& base) : base_(base) {}
  /// A copy of one that is derived would be without what it watches.
  ForwardingOps(const ForwardingOps&) = delete;

  const char* name() const override { return base_.name(); }
  bool lost() const override { return base_.lost(); }
  std::int64_t device_memory_used() const override { return base_.device_memory_used(); }
  Buffer allocate(std::size_t bytes) override { return base_.allocate(bytes); }
  void clear(const Buffer& buffer) override { base_.clear(buffer); }
  void upload(const Buffer& to, const void* host, std::size_t bytes) override {
    base_.upload(to, host, bytes);
  }
  void download(void* host, const float* from, std::size_t bytes) override {
    base_.download(host, from, bytes);
  }
  SharedBuffer allocate_shared(SharedUse use, std::size_t bytes) override {
    return base_.allocate_shared(use, bytes);
  }
  void send(const SharedBuffer& buffer, std::size_t offset, std::size_t bytes) override {
    base_.send(buffer, offset, bytes);
  }
  void expect(const SharedBuffer& buffer) override { base_.expect(buffer); }
  void receive(const SharedBuffer& buffer, std::size_t bytes) override {
    base_.receive(buffer, bytes);
  }
  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    return base_.pack_linear(linear);
  }
  DType cache_dtype(DType weights) const override { return base_.cache_dtype(weights); }
  DType activation_dtype(DType weights) const override { return base_.activation_dtype(weights); }
  DType residual_dtype(DType weights, std::int64_t dim) const override {
    return base_.residual_dtype(weights, dim);
  }
  bool keeps_calls() const override { return base_.keeps_calls(); }
  std::int64_t rounded_items(std::int64_t count) const override {
    return base_.rounded_items(count);
  }
  std::int64_t rounded_events(std::int64_t count) const override {
    return base_.rounded_events(count);
  }
  bool begin_calls(const ForwardKey& key) override { return base_.begin_calls(key); }
  void end_calls() override { base_.end_calls(); }
  void reserve(const OpsCapacity& capacity) override { base_.reserve(capacity); }
  void begin_forward() override { base_.begin_forward(); }
  void end_forward() override { base_.end_forward(); }
  void section(const char* label) override { base_.section(label); }
  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override {
    base_.norm_linear(norm, x, weight, bias, epilogue, out);
  }
  void normalize(const NormArgs& norm, MatrixView x, MatrixView out) override {
    base_.normalize(norm, x, out);
  }
  void repeat_rows(MatrixView x, MatrixView out) override { base_.repeat_rows(x, out); }
  void phases(const PhaseArgs& args) override { base_.phases(args); }
  void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                      MatrixView out) override {
    base_.project_tokens(tokens, projection, out);
  }
  void ragged_attention(const RaggedAttentionArgs& args) override { base_.ragged_attention(args); }
  void softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows, MatrixView out) override {
    base_.softmax_pool(scores, x, rows, out);
  }
  void mean_rows(MatrixView x, std::int64_t rows, MatrixView out) override {
    base_.mean_rows(x, rows, out);
  }
  void additive_bag(const StreamTables& tables, const StreamEvents& events,
                    MatrixView out) override {
    base_.additive_bag(tables, events, out);
  }
  void stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                              MatrixView out) override {
    base_.stream_cross_attention(tables, events, out);
  }
  void paged_attention(const PagedAttentionArgs& args) override { base_.paged_attention(args); }

 protected:
  Ops& base_;
};

}  // namespace cortex
