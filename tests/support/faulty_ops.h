#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "kernels/ops.h"

namespace cortex::testing {

/// Passes every call on to another backend, and does what a test wants done to a forward: a delay,
/// an exception, an output that is not a number.
class FaultyOps final : public Ops {
 public:
  explicit FaultyOps(std::unique_ptr<Ops> inner) : inner_(std::move(inner)) {}

  /// Called as a forward begins.
  std::function<void()> on_forward = [] {};
  /// Called with what a forward gave out, [rows * outputs].
  std::function<void(float*)> on_output = [](float*) {};

  const char* name() const override { return inner_->name(); }
  Buffer allocate(std::size_t bytes) override { return inner_->allocate(bytes); }
  void clear(const Buffer& buffer) override { inner_->clear(buffer); }
  void upload(const Buffer& to, const void* host, std::size_t bytes) override {
    inner_->upload(to, host, bytes);
  }
  void download(void* host, const float* from, std::size_t bytes) override {
    inner_->download(host, from, bytes);
  }
  SharedBuffer allocate_shared(SharedUse use, std::size_t bytes) override {
    return inner_->allocate_shared(use, bytes);
  }
  void send(const SharedBuffer& buffer, std::size_t offset, std::size_t bytes) override {
    inner_->send(buffer, offset, bytes);
  }
  void expect(const SharedBuffer& buffer) override { inner_->expect(buffer); }
  void receive(const SharedBuffer& buffer, std::size_t bytes) override {
    inner_->receive(buffer, bytes);
    on_output(buffer.host.as<float>());
  }
  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    return inner_->pack_linear(linear);
  }
  DType cache_dtype(DType weights) const override { return inner_->cache_dtype(weights); }
  DType activation_dtype(DType weights) const override { return inner_->activation_dtype(weights); }
  void reserve(const OpsCapacity& capacity) override { inner_->reserve(capacity); }
  void begin_forward() override {
    on_forward();
    inner_->begin_forward();
  }
  void end_forward() override { inner_->end_forward(); }
  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override {
    inner_->norm_linear(norm, x, weight, bias, epilogue, out);
  }
  void normalize(const NormArgs& norm, MatrixView x, MatrixView out) override {
    inner_->normalize(norm, x, out);
  }
  void repeat_rows(MatrixView x, MatrixView out) override { inner_->repeat_rows(x, out); }
  void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                      MatrixView out) override {
    inner_->project_tokens(tokens, projection, out);
  }
  void ragged_attention(const RaggedAttentionArgs& args) override {
    inner_->ragged_attention(args);
  }
  void softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows, MatrixView out) override {
    inner_->softmax_pool(scores, x, rows, out);
  }
  void mean_rows(MatrixView x, std::int64_t rows, MatrixView out) override {
    inner_->mean_rows(x, rows, out);
  }
  void additive_bag(const StreamTables& tables, const StreamEvents& events,
                    MatrixView out) override {
    inner_->additive_bag(tables, events, out);
  }
  void stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                              MatrixView out) override {
    inner_->stream_cross_attention(tables, events, out);
  }
  void phases(const PhaseArgs& args) override { inner_->phases(args); }
  void paged_attention(const PagedAttentionArgs& args) override { inner_->paged_attention(args); }

 private:
  std::unique_ptr<Ops> inner_;
};

}  // namespace cortex::testing
