#include "kernels/profiling_ops.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "model/window_model.h"
#include "support/stream_oracle.h"

namespace cortex::testing {
namespace {

class FakeLinear final : public LinearWeight {
 public:
  using LinearWeight::LinearWeight;
  std::size_t bytes() const override { return 0; }
};

/// Counts the calls that reach it.
class CountingOps final : public Ops {
 public:
  mutable std::map<std::string, int> calls;

  const char* name() const override { return "counting"; }
  Buffer allocate(std::size_t bytes) override {
    ++calls["allocate"];
    return {nullptr, bytes, [](void*) {}};
  }
  void clear(const Buffer&) override { ++calls["clear"]; }
  void upload(const Buffer&, const void*, std::size_t) override { ++calls["upload"]; }
  void download(void*, const float*, std::size_t) override { ++calls["download"]; }
  SharedBuffer allocate_shared(SharedUse, std::size_t) override {
    ++calls["allocate_shared"];
    return {};
  }
  void send(const SharedBuffer&, std::size_t, std::size_t) override { ++calls["send"]; }
  void expect(const SharedBuffer&) override { ++calls["expect"]; }
  void receive(const SharedBuffer&, std::size_t) override { ++calls["receive"]; }
  DType activation_dtype(DType) const override {
    ++calls["activation_dtype"];
    return DType::bf16;
  }
  std::int64_t rounded_items(std::int64_t count) const override {
    ++calls["rounded_items"];
    return 2 * count;
  }
  std::int64_t rounded_events(std::int64_t count) const override {
    ++calls["rounded_events"];
    return 3 * count;
  }
  bool begin_calls(const ForwardKey&) override {
    ++calls["begin_calls"];
    return false;
  }
  void end_calls() override { ++calls["end_calls"]; }
  void repeat_rows(MatrixView, MatrixView) override { ++calls["repeat_rows"]; }
  void phases(const PhaseArgs&) override { ++calls["phases"]; }
  std::unique_ptr<LinearWeight> pack_linear(const LinearTensor& linear) override {
    ++calls["pack_linear"];
    return std::make_unique<FakeLinear>(linear.weight.size(0), linear.weight.size(1));
  }
  DType cache_dtype(DType) const override {
    ++calls["cache_dtype"];
    return DType::bf16;
  }
  void reserve(const OpsCapacity&) override { ++calls["reserve"]; }
  void begin_forward() override { ++calls["begin_forward"]; }
  void end_forward() override { ++calls["end_forward"]; }
  void section(const char*) override { ++calls["section"]; }
  void norm_linear(const NormArgs&, MatrixView, const LinearWeight&, const float*, Epilogue,
                   MatrixView) override {
    ++calls["norm_linear"];
  }
  void normalize(const NormArgs&, MatrixView, MatrixView) override { ++calls["normalize"]; }
  void project_tokens(const TokenArgs&, const TokenProjection&, MatrixView) override {
    ++calls["project_tokens"];
  }
  void ragged_attention(const RaggedAttentionArgs&) override { ++calls["ragged_attention"]; }
  void softmax_pool(MatrixView, MatrixView, std::int64_t, MatrixView) override {
    ++calls["softmax_pool"];
  }
  void mean_rows(MatrixView, std::int64_t, MatrixView) override { ++calls["mean_rows"]; }
  void additive_bag(const StreamTables&, const StreamEvents&, MatrixView) override {
    ++calls["additive_bag"];
  }
  void stream_cross_attention(const StreamTables&, const StreamEvents&, MatrixView) override {
    ++calls["stream_cross_attention"];
  }
  void paged_attention(const PagedAttentionArgs&) override { ++calls["paged_attention"]; }
};

const ProfileEntry* find(const ProfilingOps& ops, const std::string& section,
                         const std::string& operation) {
  for (const ProfileEntry& e : ops.entries())
    if (section == e.section.data() && operation == e.operation) return &e;
  return nullptr;
}

TEST(ProfilingOps, EveryCallReachesTheBackendOnceRecordingOrNot) {
  CountingOps inner;
  ProfilingOps ops(inner);
  const Tensor weight({3, 5});
  for (const bool recording : {false, true}) {
    inner.calls.clear();
    ops.record(recording);
    ops.begin_forward();
    ops.section("one");
    const Buffer buffer = ops.allocate(4);
    ops.clear(buffer);
    ops.upload(buffer, nullptr, 0);
    ops.download(nullptr, nullptr, 0);
    const SharedBuffer shared = ops.allocate_shared(SharedUse::input, 4);
    ops.send(shared, 0, 4);
    ops.expect(shared);
    ops.receive(shared, 4);
    EXPECT_EQ(ops.activation_dtype(DType::f32), DType::bf16);
    EXPECT_EQ(ops.rounded_items(3), 6);
    EXPECT_EQ(ops.rounded_events(3), 9);
    EXPECT_FALSE(ops.begin_calls({}));
    ops.end_calls();
    ops.repeat_rows({}, {});
    ops.phases({});
    const auto linear = ops.pack_linear({weight});
    EXPECT_EQ(ops.cache_dtype(DType::f32), DType::bf16);
    ops.reserve({});
    ops.norm_linear({}, matrix(nullptr, 2, 5), *linear, nullptr, Epilogue::store, {});
    ops.normalize({}, {}, {});
    ops.project_tokens({}, {}, {});
    ops.ragged_attention({});
    ops.softmax_pool({}, {}, 1, {});
    ops.mean_rows({}, 1, {});
    const std::int32_t zeros[2] = {0, 0};
    StreamEvents events;
    events.indptr = zeros;
    events.present = zeros;
    ops.additive_bag({}, events, {});
    ops.stream_cross_attention({}, events, {});
    ops.paged_attention({});
    ops.end_forward();
    EXPECT_EQ(inner.calls.size(), 30U);
    for (const auto& [name, count] : inner.calls) EXPECT_EQ(count, 1) << name;
    EXPECT_STREQ(ops.name(), "counting");
  }
  EXPECT_EQ(ops.forwards(), 1);
  const ProfileEntry* linear = find(ops, "one", "norm_linear");
  ASSERT_NE(linear, nullptr);
  EXPECT_EQ(linear->calls, 1);
  EXPECT_EQ(linear->out, 3);
  EXPECT_EQ(linear->in, 5);
  EXPECT_EQ(linear->flop, 2.0 * 2 * 3 * 5);
  EXPECT_EQ(linear->weight_bytes, 3.0 * 5 * 4);
}

TEST(ProfilingOps, WeightsCountInTheDtypeTheyWerePackedFrom) {
  CountingOps inner;
  ProfilingOps ops(inner);
  const Tensor weight({3, 8}, DType::i8);
  const Tensor scale({3});
  const auto linear = ops.pack_linear({weight, &scale});
  ops.record(true);
  ops.begin_forward();
  ops.norm_linear({}, matrix(nullptr, 1, 8), *linear, nullptr, Epilogue::store, {});
  ops.end_forward();
  const ProfileEntry* entry = find(ops, "input", "norm_linear");
  ASSERT_NE(entry, nullptr);
  EXPECT_EQ(entry->weight_bytes, 3.0 * 8 + 3 * 4);
}

TEST(ProfilingOps, AMaskedAttentionCountsThePairsItSees) {
  CountingOps inner;
  ProfilingOps ops(inner);
  RaggedAttentionArgs args;
  args.items = 1;
  args.heads = 2;
  args.head_dim = 4;
  args.queries = 8;
  const std::int32_t indptr[2] = {0, 3};
  const std::int32_t bins[3] = {0, 31, 63};
  const double item_bins[1] = {64};
  args.indptr = indptr;
  args.key_bins = bins;
  args.item_bins = item_bins;
  args.reach_bins = 9;
  double pairs = 0;
  for (int i = 0; i < 8; ++i)
    for (const int bin : bins) pairs += std::abs(i * 64.0 / 8 - bin) <= 9 ? 1 : 0;
  ops.record(true);
  ops.begin_forward();
  ops.ragged_attention(args);
  ops.end_forward();
  EXPECT_EQ(find(ops, "input", "ragged_attention")->flop, 4 * pairs * 2 * 4);
}

TEST(ProfilingOps, AProfiledForwardHasTheSameBitsAndNamesEverySection) {
  ModelConfig config = preset_config("cortex-xs").value_or_throw();
  config.dim = 32;
  config.layers = 2;
  config.heads = 2;
  config.head_dim = 16;
  config.latents = 12;
  config.max_neurons = 20;
  config.max_bins = 64;
  const ModelFile file = random_model(config, 3);
  std::vector<Event> events(30);
  for (int e = 0; e < 30; ++e) events[static_cast<std::size_t>(e)] = {e % 20, 1, 2 * e};

  const auto plain = make_reference_ops();
  WindowModel expected(file, *plain, 1, 64);
  expected.begin_batch(1, 30).add_window(events, 64);
  const auto want = expected.forward();
  const auto inner = make_reference_ops();
  ProfilingOps ops(*inner);
  WindowModel profiled(file, ops, 1, 64);
  EXPECT_TRUE(ops.entries().empty()) << "loading is no part of a forward";
  ops.record(true);
  profiled.begin_batch(1, 30).add_window(events, 64);
  for (int i = 0; i < 3; ++i) {
    const auto got = profiled.forward();
    EXPECT_TRUE(std::equal(want.begin(), want.end(), got.begin(), got.end()));
  }
  EXPECT_EQ(ops.forwards(), 3);
  EXPECT_NE(find(ops, "tokens", "project_tokens"), nullptr);
  for (const char* section : {"cross-attention", "block 0", "block 1", "head"}) {
    const ProfileEntry* linear = find(ops, section, "norm_linear");
    ASSERT_NE(linear, nullptr) << section;
    EXPECT_GT(linear->flop, 0) << section;
  }
  std::int64_t sum = 0;
  for (const ProfileEntry& e : ops.entries()) sum += e.ns;
  EXPECT_LE(sum, ops.forward_ns());
  const double qkv = 3.0 * 2 * 12 * 96 * 32;
  EXPECT_EQ(find(ops, "block 0", "norm_linear")->flop, qkv);
  ops.reset();
  EXPECT_TRUE(ops.entries().empty());
  EXPECT_EQ(ops.forwards(), 0);
}

TEST(ProfilingOps, TheFloorIsTheSlowerOfArithmeticAndBytes) {
  ProfileEntry entry;
  entry.flop = 2e9;
  entry.weight_bytes = 3e9;
  entry.other_bytes = 1e9;
  EXPECT_EQ(floor_ns(entry, {}), 0);
  EXPECT_DOUBLE_EQ(floor_ns(entry, {.gflops = 100, .gbs = 0}), 2e7);
  EXPECT_DOUBLE_EQ(floor_ns(entry, {.gflops = 100, .gbs = 20}), 2e8);
}

}  // namespace
}  // namespace cortex::testing
