#include <cstring>

#include "cpu_cases.h"

namespace cortex {
namespace {

using testing::CpuKernels;
using testing::expect_close;

struct Stream {
  int heads, head_dim, latents, window, page_steps;
};
const std::vector<Stream> kStreams = {
    {4, 32, 1, 50, 16}, {8, 64, 4, 50, 8}, {2, 16, 2, 10, 8}, {1, 64, 6, 7, 8}, {2, 8, 4, 9, 8}};

class CpuStream : public CpuKernels {};

TEST_P(CpuStream, PagedAttentionEqualsTheReferenceOverAWindowThatFillsAndWraps) {
  for (const Stream& s : kStreams) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const auto ops = make();
      const auto reference = make_reference_ops();
      const int dim = s.heads * s.head_dim, steps = 3;
      const int pages = (s.window + s.page_steps - 1) / s.page_steps;
      const auto page_elements = static_cast<std::int64_t>(2) * 2 * s.page_steps * s.latents * dim;
      const auto pool_of = [&](Ops& o, int bytes) {
        Buffer b = o.allocate(static_cast<std::size_t>(page_elements * bytes * pages * steps));
        o.clear(b);
        return b;
      };
      const int bytes = dtype == DType::f32 ? 4 : 2;
      const Buffer pool = pool_of(*ops, bytes), reference_pool = pool_of(*reference, 4);
      std::vector<std::int32_t> indptr, table, slot(steps), live(steps);
      for (int b = 0; b <= steps; ++b) indptr.push_back(b * pages);
      for (int i = 0; i < steps * pages; ++i) table.push_back((i * 5 + 3) % (steps * pages));
      const auto rows = static_cast<std::int64_t>(steps) * s.latents;
      for (int step = 0; step < s.window + 12; ++step) {
        auto qkv = normal(static_cast<std::size_t>(rows * 3 * dim), 1.5);
        auto qkv_reference = qkv;
        std::vector<float> cosines, sines, out(static_cast<std::size_t>(rows * dim));
        auto expected = out;
        for (int i = 0; i < steps * s.head_dim / 2; ++i) {
          cosines.push_back(std::cos(0.1f * static_cast<float>(step * i)));
          sines.push_back(std::sin(0.1f * static_cast<float>(step * i)));
        }
        for (int b = 0; b < steps; ++b) {
          slot[static_cast<std::size_t>(b)] = (step + 3 * b) % s.window;
          live[static_cast<std::size_t>(b)] = std::min(step + 1, s.window);
        }
        PagedAttentionArgs a;
        a.steps = steps;
        a.heads = s.heads;
        a.head_dim = s.head_dim;
        a.latents = s.latents;
        a.layer = step % 1;
        a.cosines = cosines.data();
        a.sines = sines.data();
        a.cache = {pool.as<std::byte>(), page_elements * bytes, dtype,       s.page_steps, s.window,
                   indptr.data(),        table.data(),          slot.data(), live.data()};
        a.qkv = matrix(qkv.data(), rows, 3 * dim);
        a.out = matrix(out.data(), rows, dim);
        ops->paged_attention(a);
        a.cache.pool = reference_pool.as<std::byte>();
        a.cache.page_bytes = page_elements * 4;
        a.cache.dtype = DType::f32;
        a.qkv.data = qkv_reference.data();
        a.out.data = expected.data();
        reference->paged_attention(a);
        expect_close(out, {expected.begin(), expected.end()}, dtype == DType::f32 ? 3e-6 : 2e-2,
                     "step " + std::to_string(step) + ", head of " + std::to_string(s.head_dim));
      }
    }
  }
}

class CpuStreamCross : public CpuKernels {
 protected:
  static constexpr int kUnits = 20, kValues = 5, kOffsets = 12, kSteps = 4;
  struct Tables {
    std::vector<float> unit_score, value_score, unit_v, value_v, rstd, null_score, null_v, latent,
        additive;
  };
  StreamTables fill(const Stream& s) {
    const auto dim = static_cast<std::size_t>(s.heads * s.head_dim);
    const auto queries = static_cast<std::size_t>(s.heads * s.latents);
    memory_.unit_score = normal(kUnits * kOffsets * queries);
    memory_.value_score = normal(kValues * kOffsets * queries);
    memory_.unit_v = normal(kUnits * dim);
    memory_.value_v = normal(kValues * dim);
    memory_.rstd = normal(kUnits * kValues);
    for (float& x : memory_.rstd) x = std::abs(x) + 0.5f;
    memory_.null_score = normal(queries);
    memory_.null_v = normal(dim);
    memory_.latent = normal(static_cast<std::size_t>(s.latents) * dim);
    memory_.additive = normal(kUnits * static_cast<std::size_t>(s.latents) * dim);
    StreamTables t;
    t.dim = static_cast<int>(dim);
    t.heads = s.heads;
    t.head_dim = s.head_dim;
    t.latents = s.latents;
    t.value_buckets = kValues;
    t.offsets = kOffsets;
    t.unit_score = memory_.unit_score.data();
    t.value_score = memory_.value_score.data();
    t.unit_v = memory_.unit_v.data();
    t.value_v = memory_.value_v.data();
    t.rstd = memory_.rstd.data();
    t.null_score = memory_.null_score.data();
    t.null_v = memory_.null_v.data();
    t.latent = memory_.latent.data();
    t.additive = memory_.additive.data();
    return t;
  }
  Tables memory_;
};

TEST_P(CpuStreamCross, CrossAttentionAndTheAdditiveBagEqualTheReference) {
  for (const Stream& s : kStreams) {
    const auto ops = make();
    const auto reference = make_reference_ops();
    const StreamTables t = fill(s);
    std::vector<std::int32_t> indptr{0}, present;
    std::vector<StreamEvent> packed;
    for (const int count : {0, 3, 700, 41}) {  // one a step; the first is silent
      present.push_back(indptr.back() + count / 2);
      for (int e = 0; e < count; ++e)
        packed.push_back({below(kUnits), 1 + below(9), below(kOffsets)});
      indptr.push_back(indptr.back() + count);
    }
    const StreamEvents events{kSteps, indptr.data(), present.data(), packed.data()};
    const auto rows = static_cast<std::int64_t>(kSteps) * s.latents;
    std::vector<float> out(static_cast<std::size_t>(rows * t.dim)), expected(out.size());
    ops->stream_cross_attention(t, events, matrix(out.data(), rows, t.dim));
    reference->stream_cross_attention(t, events, matrix(expected.data(), rows, t.dim));
    expect_close(out, {expected.begin(), expected.end()}, 3e-6, "cross-attention");
    ops->additive_bag(t, events, matrix(out.data(), rows, t.dim));
    reference->additive_bag(t, events, matrix(expected.data(), rows, t.dim));
    expect_close(out, {expected.begin(), expected.end()}, 1e-6, "additive bag");
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, CpuStream, ::testing::ValuesIn(testing::cpu_cases()),
                         testing::name_of);
INSTANTIATE_TEST_SUITE_P(Isas, CpuStreamCross, ::testing::ValuesIn(testing::cpu_cases()),
                         testing::name_of);

}  // namespace
}  // namespace cortex
