#include <array>
#include <cstring>

#include "cpu_cases.h"

namespace cortex {
namespace {

using testing::CpuKernels;
using testing::expect_close;

struct Shapes {
  int heads, head_dim;
  std::int64_t queries;
  std::vector<std::int32_t> keys;  // of each item
  bool shared_q, masked;
};
const std::vector<Shapes> kShapes = {
    {2, 64, 16, {16, 16}, false, false}, {4, 32, 9, {40, 0, 7}, false, false},
    {1, 8, 5, {70, 1}, true, false},     {2, 64, 20, {100, 33}, true, true},
    {2, 16, 12, {0, 50}, false, true},   {1, 64, 7, {2500}, false, false},
    {2, 32, 8, {1024, 1025}, true, true}};

class CpuAttention : public CpuKernels {
 protected:
  struct Problem {
    std::vector<float> q, kv, out;
    std::vector<std::int32_t> indptr{0}, bins;
    std::vector<double> item_bins;
    RaggedAttentionArgs args;
  };
  Problem problem(const Shapes& s) {
    Problem p;
    for (const std::int32_t n : s.keys) p.indptr.push_back(p.indptr.back() + n);
    const std::int64_t dim = s.heads * s.head_dim, keys = p.indptr.back();
    const auto items = static_cast<int>(s.keys.size());
    p.q = normal(static_cast<std::size_t>((s.shared_q ? 1 : items) * s.queries * dim), 2);
    p.kv = normal(static_cast<std::size_t>(keys * 2 * dim));
    p.out.assign(static_cast<std::size_t>(items * s.queries * dim), 777.0f);
    for (std::int64_t j = 0; j < keys; ++j) p.bins.push_back(below(120));
    p.item_bins.assign(s.keys.size(), 120.0);
    p.args.items = items;
    p.args.heads = s.heads;
    p.args.head_dim = s.head_dim;
    p.args.queries = s.queries;
    p.args.q = matrix(p.q.data(), static_cast<std::int64_t>(p.q.size()) / dim, dim);
    p.args.shared_q = s.shared_q;
    p.args.k = matrix(p.kv.data(), keys, 2 * dim);
    p.args.v = p.args.k;
    p.args.v.data += dim;
    p.args.out = matrix(p.out.data(), items * s.queries, dim);
    return p;
  }
  static void point(Problem& p, const Shapes& s) {
    p.args.indptr = p.indptr.data();
    if (!s.masked) return;
    p.args.key_bins = p.bins.data();
    p.args.item_bins = p.item_bins.data();
    p.args.reach_bins = 17.5;
  }
};

std::vector<double> naive(const RaggedAttentionArgs& a) {
  std::vector<double> out;
  for (int item = 0; item < a.items; ++item)
    for (std::int64_t i = 0; i < a.queries; ++i)
      for (int h = 0; h < a.heads; ++h) {
        const float* q =
            a.q.data + (a.shared_q ? i : item * a.queries + i) * a.q.stride + h * a.head_dim;
        std::vector<double> sum(static_cast<std::size_t>(a.head_dim), 0.0);
        double total = 0;
        for (std::int32_t j = a.indptr[item]; j < a.indptr[item + 1]; ++j) {
          if (a.key_bins &&
              std::abs(static_cast<double>(i) * a.item_bins[item] / static_cast<double>(a.queries) -
                       a.key_bins[j]) > a.reach_bins)
            continue;
          double score = 0;
          for (int d = 0; d < a.head_dim; ++d)
            score += static_cast<double>(q[d]) * a.k.data[j * a.k.stride + h * a.head_dim + d];
          const double w = std::exp(score / std::sqrt(static_cast<double>(a.head_dim)));
          total += w;
          for (int d = 0; d < a.head_dim; ++d)
            sum[static_cast<std::size_t>(d)] += w * a.v.data[j * a.v.stride + h * a.head_dim + d];
        }
        for (const double x : sum) out.push_back(total > 0 ? x / total : 0);
      }
  return out;
}

TEST_P(CpuAttention, EqualsFloat64OverRaggedItemsMasksAndLongContexts) {
  for (const bool narrow : {false, true}) {
    const auto ops = make();
    // A narrow linear makes the model's attention bf16.
    if (narrow) {
      const Tensor w({16, 16}, DType::bf16);
      (void)ops->pack_linear({w});
    }
    for (const Shapes& s : kShapes) {
      Problem p = problem(s);
      point(p, s);
      const ForwardScope scope(*ops);
      ops->ragged_attention(p.args);
      expect_close(p.out, naive(p.args), narrow ? 2e-2 : 3e-6,
                   std::to_string(s.queries) + " queries, head of " + std::to_string(s.head_dim));
    }
  }
}

TEST_P(CpuAttention, AnItemHasTheSameBitsAloneAndInABatch) {
  const Shapes both{2, 64, 20, {100, 133}, true, true};
  const auto ops = make();
  Problem p = problem(both);
  point(p, both);
  ops->ragged_attention(p.args);
  const auto whole = p.out;
  p.args.items = 1;
  p.args.indptr = p.indptr.data() + 1;
  p.args.item_bins = p.item_bins.data() + 1;
  ops->ragged_attention(p.args);
  const std::size_t half = whole.size() / 2;
  EXPECT_EQ(0, std::memcmp(p.out.data(), whole.data() + half, half * sizeof(float)));
}

TEST_P(CpuAttention, SoftmaxPoolEqualsTheReference) {
  const auto ops = make(), reference = make_reference_ops();
  for (const auto& [items, rows, columns, dim] :
       {std::array{1, 256, 16, 512}, std::array{3, 7, 3, 20}, std::array{2, 33, 5, 64}}) {
    auto scores = normal(static_cast<std::size_t>(items * rows * columns), 3);
    auto copy = scores;
    auto x = normal(static_cast<std::size_t>(items * rows * dim));
    std::vector<float> out(static_cast<std::size_t>(items * columns * dim)), expected(out.size());
    ops->softmax_pool(matrix(scores.data(), items * rows, columns),
                      matrix(x.data(), items * rows, dim), rows,
                      matrix(out.data(), items * columns, dim));
    reference->softmax_pool(matrix(copy.data(), items * rows, columns),
                            matrix(x.data(), items * rows, dim), rows,
                            matrix(expected.data(), items * columns, dim));
    expect_close(out, {expected.begin(), expected.end()}, 3e-6, "softmax_pool");
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, CpuAttention, ::testing::ValuesIn(testing::cpu_cases()),
                         testing::name_of);

}  // namespace
}  // namespace cortex
