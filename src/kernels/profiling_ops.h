#pragma once

#include <array>
#include <span>
#include <unordered_map>
#include <vector>

#include "kernels/forwarding_ops.h"

namespace cortex {

/// What the calls of one kind cost, summed over the recorded forwards.
struct ProfileEntry {
  static constexpr std::size_t kSectionLength = 24;
  std::array<char, kSectionLength> section{};  ///< as the plan named it, cut to fit
  const char* operation = "";                  ///< as in Ops
  std::int64_t out = 0;                        ///< norm_linear: the weight's shape, else 0
  std::int64_t in = 0;
  std::int64_t calls = 0;
  std::int64_t ns = 0;
  /// Two a multiply-add of linears, attention and tables; norms and epilogues count nothing.
  double flop = 0;
  double weight_bytes = 0;  ///< linears, in the dtype and with the scales they were packed from
  double other_bytes = 0;   ///< K and V of a cache, rows of tables, copies
};

/// Ceilings of a machine, as something else measured them; 0: not known.
struct Ceilings {
  double gflops = 0;  ///< arithmetic, at the precision that is profiled
  double gbs = 0;     ///< bandwidth of where the weights live
};

/// The least time in which the machine could do an entry's work, ns; 0 where no ceiling is known.
double floor_ns(const ProfileEntry& entry, const Ceilings& ceilings);

/// Passes every call on to another backend and times it.
///
///     const auto inner = make_reference_ops();  // outlives it
///     ProfilingOps ops(*inner);
///     StreamModel model(file, ops, ...);
///     ops.record(true);
///     model.forward(batch);
///     for (const ProfileEntry& e : ops.entries()) ...
///
/// Recording allocates nothing. A call's time ends when the inner backend returns. Arguments in the
/// backend's memory are read to count work, so `inner` must be one of host memory.
class ProfilingOps final : public ForwardingOps {
 public:
  explicit ProfilingOps(Ops& inner);

  /// Whether the forwards that begin from now on are recorded. What was recorded stays.
  void record(bool on) { wanted_ = on; }
  void reset();
  /// In the order of each kind's first call.
  std::span<const ProfileEntry> entries() const { return {entries_.data(), used_}; }
  std::int64_t forwards() const { return forwards_; }
  /// From begin_forward() to end_forward(), so also what a plan does between its calls.
  std::int64_t forward_ns() const { return forward_ns_; }

  void clear(const Buffer& buffer) override;
  void upload(const Buffer& to, const void* host, std::size_t bytes) override;
  void download(void* host, const float* from, std::size_t bytes) override;
  void send(const SharedBuffer& buffer, std::size_t offset, std::size_t bytes) override;
  void receive(const SharedBuffer& buffer, std::size_t bytes) override;
  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override;
  void begin_forward() override;
  void end_forward() override;
  void section(const char* name) override;
  void norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                   const float* bias, Epilogue epilogue, MatrixView out) override;
  void normalize(const NormArgs& norm, MatrixView x, MatrixView out) override;
  void repeat_rows(MatrixView x, MatrixView out) override;
  void phases(const PhaseArgs& args) override;
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
  struct Work {
    double flop = 0;
    double weight_bytes = 0;
    double other_bytes = 0;
  };
  /// Runs `call` and books its time and work under the present section.
  template <class Call, class Count>
  void timed(const char* operation, std::int64_t out, std::int64_t in, Call&& call, Count&& count);
  ProfileEntry& entry(const char* operation, std::int64_t out, std::int64_t in);

  std::unordered_map<const LinearWeight*, double> packed_bytes_;
  bool wanted_ = false;
  bool recording_ = false;
  const char* section_ = "";
  std::vector<ProfileEntry> entries_;  // of a fixed size
  std::size_t used_ = 0;
  std::int64_t forward_began_ns_ = 0;
  std::int64_t forward_ns_ = 0;
  std::int64_t forwards_ = 0;
};

}  // namespace cortex
