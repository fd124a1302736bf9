#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cuda_fixture.h"

/// The CUDA backend's operations of windows against plain C++, in the sizes and types that each of
/// their kernels gets. Skipped, with a line that says so, where there is no GPU.
namespace cortex {
namespace {

using testing::CudaKernels;
using testing::kBf16Tolerance;
using testing::kFloatTolerance;
using testing::tensor_of;

/// Mean squares out of tables of pairs, and rows of whole slices: what a narrow model's events
/// take.
TEST_F(CudaKernels, TokensWithTablesOfSquaresEqualTheReference) {
  const auto reference = make_reference_ops();
  const int neurons = 70, bins = 90, values = 5;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int dim : {512, 96, 64}) {
      for (const std::int64_t events : {1, 33, 512, 40000}) {
        const std::int64_t width = 2 * dim;
        const auto n = [&](int rows, std::int64_t columns) {
          return normal(static_cast<std::size_t>(rows * columns));
        };
        const auto raw_n = n(neurons, dim), raw_t = n(bins, dim), raw_v = n(values, dim);
        auto wide_n = n(neurons, width), wide_t = n(bins, width), wide_v = n(values, width);
        std::vector<std::int32_t> neuron, bin, value;
        for (int e = 0; e < events; ++e) {
          neuron.push_back(below(neurons));
          bin.push_back(below(bins));
          value.push_back(below(9));
        }
        const auto dot = [&](const std::vector<float>& a, int i, const std::vector<float>& b,
                             int j) {
          double sum = 0;
          for (int d = 0; d < dim; ++d)
            sum += static_cast<double>(a[static_cast<std::size_t>(i * dim + d)]) *
                   b[static_cast<std::size_t>(j * dim + d)];
          return sum / dim;
        };
        std::vector<float> n_t, n_v, t_v;
        for (int i = 0; i < neurons; ++i)
          for (int j = 0; j < bins; ++j)
            n_t.push_back(static_cast<float>(dot(raw_n, i, raw_n, i) + dot(raw_t, j, raw_t, j) +
                                             2 * dot(raw_n, i, raw_t, j)));
        for (int i = 0; i < neurons; ++i)
          for (int j = 0; j < values; ++j)
            n_v.push_back(
                static_cast<float>(dot(raw_v, j, raw_v, j) + 2 * dot(raw_n, i, raw_v, j)));
        for (int i = 0; i < bins; ++i)
          for (int j = 0; j < values; ++j)
            t_v.push_back(static_cast<float>(2 * dot(raw_t, i, raw_v, j)));
        TokenArgs t{put(raw_n), put(raw_t),  put(raw_v), dim,       values,
                    events,     put(neuron), put(bin),   put(value)};
        TokenProjection p;
        p.eps = 1e-5F;
        p.dtype = dtype;
        p.width = width;
        p.neuron_table = put_matrix(wide_n, neurons, width, dtype).data;
        p.time_table = put_matrix(wide_t, bins, width, dtype).data;
        p.value_table = put_matrix(wide_v, values, width, dtype).data;
        p.neuron_time = put(n_t);
        p.neuron_value = put(n_v);
        p.time_value = put(t_v);
        p.bins = bins;
        const MatrixView out = poisoned(events, width, dtype);
        ops_->project_tokens(t, p, out);
        t = {raw_n.data(), raw_t.data(),  raw_v.data(), dim,         values,
             events,       neuron.data(), bin.data(),   value.data()};
        p.dtype = DType::f32;
        p.neuron_table = wide_n.data();
        p.time_table = wide_t.data();
        p.value_table = wide_v.data();
        std::vector<float> expected(static_cast<std::size_t>(events * width));
        reference->project_tokens(t, p, matrix(expected.data(), events, width));
        expect_close(get(out), expected, tolerance_of(dtype),
                     std::to_string(events) + " events of " + std::to_string(dim));
        memory_.clear();
      }
    }
  }
}

TEST_F(CudaKernels, TheHeadOfLatentsEqualsTheReference) {
  struct Case {
    std::int64_t items, latents, dim;
    int heads, outputs;
  };
  const auto reference = make_reference_ops();
  for (const Case& c : std::vector<Case>{{3, 50, 64, 2, 2},
                                         {1, 256, 512, 8, 2},
                                         {20, 128, 256, 4, 2},
                                         {2, 40, 96, 12, 3},
                                         {2, 1, 32, 1, 1},
                                         {2, 33, 40, 5, 2}}) {
    for (const auto kind : {NormArgs::Kind::rms, NormArgs::Kind::layer}) {
      for (const DType x_dtype : {DType::f32, DType::bf16}) {
        for (const DType dtype : {DType::f32, DType::bf16}) {
          const std::int64_t rows = c.items * c.latents, queries = c.heads * c.outputs;
          const auto n = [&](std::int64_t count, double scale) {
            return normal(static_cast<std::size_t>(count), scale);
          };
          auto x = n(rows * c.dim, 2);
          const auto gain = n(c.dim, 1), other_gain = n(c.dim, 1);
          const Tensor score =
              tensor_of(n(queries * c.dim, 2 / std::sqrt(c.dim)), {queries, c.dim});
          const Tensor value = tensor_of(n(c.heads * c.dim, 0.1), {1, c.heads * c.dim});
          const auto score_there = ops_->pack_linear({score});
          const auto value_there = ops_->pack_linear({value});
          const bool layer = kind == NormArgs::Kind::layer;
          LatentHeadArgs a;
          a.heads = c.heads;
          a.latents = c.latents;
          a.first = {kind, put(gain), layer ? put(other_gain) : nullptr, 1e-3F};
          a.second = {kind, put(other_gain), layer ? put(gain) : nullptr, 1e-2F};
          a.x = put_matrix(x, rows, c.dim, x_dtype);
          a.score = score_there.get();
          a.value = value_there.get();
          a.out = poisoned(c.items, c.outputs, DType::f32);
          a.keys = poisoned(rows, c.dim, dtype);
          a.scores = poisoned(rows, queries, DType::f32);
          a.pooled = poisoned(c.items * queries, c.dim, DType::f32);
          ops_->latent_head(a);
          const auto got = get(a.out);

          std::vector<float> keys(x.size()),
              pooled(static_cast<std::size_t>(c.items * queries * c.dim));
          std::vector<float> scores(static_cast<std::size_t>(rows * queries)), expected(got.size());
          const auto score_here = reference->pack_linear({score});
          const auto value_here = reference->pack_linear({value});
          a.first = {kind, gain.data(), layer ? other_gain.data() : nullptr, 1e-3F};
          a.second = {kind, other_gain.data(), layer ? gain.data() : nullptr, 1e-2F};
          a.x = matrix(x.data(), rows, c.dim);
          a.score = score_here.get();
          a.value = value_here.get();
          a.out = matrix(expected.data(), c.items, c.outputs);
          a.keys = matrix(keys.data(), rows, c.dim);
          a.scores = matrix(scores.data(), rows, queries);
          a.pooled = matrix(pooled.data(), c.items * queries, c.dim);
          reference->latent_head(a);
          // Of keys rounded once and twice, where the norms are not fused.
          const bool fused = !layer && c.dim % 32 == 0;
          expect_close(got, expected,
                       dtype == DType::f32 ? 3e-5
                       : fused             ? 2e-4
                                           : 2e-2,
                       std::to_string(c.items) + " items of " + std::to_string(c.dim));
          memory_.clear();
        }
      }
    }
  }
}

TEST_F(CudaKernels, ALinearOntoRepeatedRowsIsTheSumOfBoth) {
  const auto reference = make_reference_ops();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t repeated : {128, 40}) {
      const std::int64_t dim = 256, rows = 3 * repeated;
      OpsCapacity room;
      room.rows = rows;
      room.inputs = dim;
      ops_->reserve(room);
      const auto n = [&](std::int64_t count) { return normal(static_cast<std::size_t>(count)); };
      const Tensor wide = tensor_of(n(dim * dim), {dim, dim}), narrow = to_bfloat16(wide);
      const Tensor weight = to_float(narrow);
      const auto there =
          ops_->pack_linear({.weight = dtype == DType::f32 ? weight : narrow, .any_order = true});
      const auto here = reference->pack_linear({weight});
      const DType residual = ops_->residual_dtype(dtype, dim);
      auto x = n(rows * dim), onto = n(repeated * dim);
      const MatrixView out = poisoned(rows, dim, residual);
      ops_->linear_onto(put_matrix(onto, repeated, dim, residual), put_matrix(x, rows, dim, dtype),
                        *there, out);
      std::vector<float> expected(x.size());
      reference->linear_onto(matrix(onto.data(), repeated, dim), matrix(x.data(), rows, dim), *here,
                             matrix(expected.data(), rows, dim));
      expect_close(get(out), expected, tolerance_of(dtype), std::to_string(repeated));
    }
  }
}

/// Sizes that each way to share queries and keys out among warpgroups gets.
TEST_F(CudaKernels, NarrowAttentionOfHeadsOf64EqualsTheReference) {
  const auto reference = make_reference_ops();
  struct Case {
    std::vector<int> counts;
    int heads;
    std::int64_t queries;
    bool shared;
    double reach;  // of 120 bins; 0: dense
  };
  const std::vector<int> many = {0, 1, 63, 64, 65, 512, 700, 2048, 1500};
  const std::vector<int> some = {130, 2048, 0, 257, 64};
  const std::vector<int> of_latents(20, 256);
  for (const Case& c : std::vector<Case>{{{1500}, 8, 256, true, 0},
                                         {{1500}, 8, 256, false, 20},
                                         {{200}, 1, 17, true, 0.3},
                                         {{3}, 2, 100, false, 5},
                                         {some, 8, 256, true, 0},
                                         {some, 8, 256, true, 16},
                                         {some, 6, 300, false, 0.3},
                                         {many, 8, 256, true, 0},
                                         {many, 8, 256, true, 16.1},
                                         {many, 8, 250, true, 35},
                                         {many, 9, 200, false, 0.3},
                                         {of_latents, 8, 256, false, 0}}) {
    const auto items = static_cast<int>(c.counts.size());
    const std::int64_t dim = std::int64_t{c.heads} * 64;
    std::vector<std::int32_t> indptr = {0}, bins;
    std::vector<double> item_bins;
    for (const int n : c.counts) {
      indptr.push_back(indptr.back() + n);
      std::vector<std::int32_t> of_item;
      for (int e = 0; e < n; ++e) of_item.push_back(below(120));
      if (n % 2 == 0) std::sort(of_item.begin(), of_item.end());
      bins.insert(bins.end(), of_item.begin(), of_item.end());
      item_bins.push_back(n == 63 || n == 257 ? 500 : 120);  // then most queries see nothing
    }
    // Nobody's rows, behind the last item's.
    const std::int64_t keys = indptr.back(), rows = keys + 70;
    const std::int64_t q_rows = c.shared ? c.queries : items * c.queries;
    auto q = normal(static_cast<std::size_t>(q_rows * dim), 1.5);
    auto kv = normal(static_cast<std::size_t>(rows * 2 * dim));
    std::fill(kv.begin() + keys * 2 * dim, kv.end(), std::numeric_limits<float>::quiet_NaN());
    bins.resize(static_cast<std::size_t>(rows), 60);
    RaggedAttentionArgs a;
    a.items = items;
    a.heads = c.heads;
    a.head_dim = 64;
    a.queries = c.queries;
    a.shared_q = c.shared;
    a.q = put_matrix(q, q_rows, dim, DType::bf16);
    a.k = put_matrix(kv, rows, 2 * dim, DType::bf16);
    a.v = a.k.from_column(dim);
    a.indptr = put(indptr);
    a.out = poisoned(items * c.queries, dim, DType::bf16);
    if (c.reach > 0) {
      a.key_bins = put(bins);
      a.item_bins = put(item_bins);
      a.reach_bins = c.reach;
    }
    ops_->ragged_attention(a);
    const auto got = get(a.out);
    a.q = matrix(q.data(), q_rows, dim);
    a.k = matrix(kv.data(), rows, 2 * dim);
    a.v = a.k.from_column(dim);
    a.indptr = indptr.data();
    std::vector<float> expected(got.size());
    a.out = matrix(expected.data(), items * c.queries, dim);
    if (c.reach > 0) {
      a.key_bins = bins.data();
      a.item_bins = item_bins.data();
    }
    reference->ragged_attention(a);
    expect_close(got, expected, kBf16Tolerance,
                 std::to_string(items) + " items, reach " + std::to_string(c.reach));
    memory_.clear();
  }
}

/// Scores that grow from tile to tile by more than a weight may exceed 1: the sums follow.
TEST_F(CudaKernels, NarrowAttentionFollowsScoresThatGrow) {
  const auto reference = make_reference_ops();
  const std::int64_t dim = 64, queries = 64;
  for (const int keys : {640, 70}) {
    auto q = normal(static_cast<std::size_t>(queries * dim), 0.1);
    auto kv = normal(static_cast<std::size_t>(keys * 2 * dim), 0.1);
    for (std::int64_t i = 0; i < queries; ++i) q[static_cast<std::size_t>(i * dim)] = 8;
    for (int j = 0; j < keys; ++j)
      kv[static_cast<std::size_t>(j * 2 * dim)] = static_cast<float>(j % 2 ? j : -j) * 0.3F;
    const std::vector<std::int32_t> indptr = {0, keys};
    RaggedAttentionArgs a;
    a.items = 1;
    a.heads = 1;
    a.head_dim = 64;
    a.queries = queries;
    a.q = put_matrix(q, queries, dim, DType::bf16);
    a.k = put_matrix(kv, keys, 2 * dim, DType::bf16);
    a.v = a.k.from_column(dim);
    a.indptr = put(indptr);
    a.out = poisoned(queries, dim, DType::bf16);
    ops_->ragged_attention(a);
    const auto got = get(a.out);
    a.q = matrix(q.data(), queries, dim);
    a.k = matrix(kv.data(), keys, 2 * dim);
    a.v = a.k.from_column(dim);
    a.indptr = indptr.data();
    std::vector<float> expected(got.size());
    a.out = matrix(expected.data(), queries, dim);
    reference->ragged_attention(a);
    expect_close(got, expected, kBf16Tolerance, std::to_string(keys) + " keys");
  }
}

}  // namespace
}  // namespace cortex
