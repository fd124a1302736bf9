#include "cuda_fixture.h"
#include "support/precision_ops.h"

/// Every operation of the CUDA backend against plain C++ in float32 with float64 sums, on poisoned
/// outputs. Skipped, with a line that says so, where there is no GPU.
namespace cortex {
namespace {

using testing::CudaKernels;
using testing::kBf16Tolerance;
using testing::kFloatTolerance;
using testing::kInt8Tolerance;
using testing::PrecisionOps;
using testing::tensor_of;

struct Linear {
  Tensor weight;
  Tensor scale;
};
Linear linear_of(const std::vector<float>& values, std::int64_t out, std::int64_t in, DType dtype) {
  Linear linear{tensor_of(values, {out, in}), Tensor()};
  if (dtype == DType::bf16) linear.weight = to_bfloat16(linear.weight);
  if (dtype != DType::i8) return linear;
  Tensor narrow({out, in}, DType::i8);
  linear.scale = Tensor({out});
  for (std::int64_t o = 0; o < out; ++o) {
    float top = 1e-6F;
    for (std::int64_t i = 0; i < in; ++i)
      top = std::max(top, std::abs(values[static_cast<std::size_t>(o * in + i)]));
    linear.scale.f32()[static_cast<std::size_t>(o)] = top / 127;
    for (std::int64_t i = 0; i < in; ++i)
      narrow.data()[o * in + i] = static_cast<std::byte>(static_cast<std::int8_t>(
          std::lround(values[static_cast<std::size_t>(o * in + i)] / top * 127)));
  }
  linear.weight = std::move(narrow);
  return linear;
}

struct Shape3 {
  std::int64_t m, n, k;
};
const std::vector<Shape3> kLinears = {{1, 2, 128},      {4, 1536, 512},  {4, 512, 2048},
                                      {7, 17, 40},      {3, 5, 27},      {33, 512, 512},
                                      {37, 768, 256},   {256, 64, 1024}, {300, 512, 512},
                                      {1100, 640, 256}, {70, 24, 96},    {2048, 512, 512}};

TEST_F(CudaKernels, LinearsEqualTheReferenceInEveryPrecision) {
  for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
    for (const Shape3& s : kLinears) {
      if (testing::brief() && s.m > 300) continue;
      for (const auto kind : {NormArgs::Kind::none, NormArgs::Kind::rms, NormArgs::Kind::layer}) {
        const Epilogue epilogue = kind == NormArgs::Kind::none  ? Epilogue::add
                                  : kind == NormArgs::Kind::rms ? Epilogue::gelu
                                                                : Epilogue::store;
        const DType x_dtype =
            precision != DType::f32 && epilogue == Epilogue::add ? DType::bf16 : DType::f32;
        const DType out_dtype =
            precision != DType::f32 && epilogue == Epilogue::gelu ? DType::bf16 : DType::f32;
        const Linear linear = linear_of(
            normal(static_cast<std::size_t>(s.n * s.k), 1 / std::sqrt(static_cast<double>(s.k))),
            s.n, s.k, precision);
        auto x = normal(static_cast<std::size_t>(s.m * s.k), 2);
        auto before = normal(static_cast<std::size_t>(s.m * s.n));
        const auto gain = normal(static_cast<std::size_t>(s.k), 0.1);
        const auto bias = normal(static_cast<std::size_t>(s.n));
        const Tensor gain_tensor = tensor_of(gain, {s.k});
        const bool folds = kind == NormArgs::Kind::rms;
        const LinearTensor given{linear.weight, linear.scale.empty() ? nullptr : &linear.scale,
                                 folds ? &gain_tensor : nullptr};
        const MatrixView on_device = put_matrix(x, s.m, s.k, x_dtype);
        const MatrixView out = epilogue == Epilogue::add ? put_matrix(before, s.m, s.n, DType::f32)
                                                         : poisoned(s.m, s.n, out_dtype);
        NormArgs norm{kind, put(gain), kind == NormArgs::Kind::layer ? put(gain) : nullptr, 1e-5F};
        const auto packed = ops_->pack_linear(given);
        ops_->norm_linear(norm, on_device, *packed, put(bias), epilogue, out);

        const auto base = make_reference_ops();
        PrecisionOps reference(*base);
        norm.gain = gain.data();
        if (norm.bias) norm.bias = gain.data();
        const auto expected_weight = reference.pack_linear(given);
        reference.norm_linear(norm, matrix(x.data(), s.m, s.k), *expected_weight, bias.data(),
                              epilogue, matrix(before.data(), s.m, s.n));
        expect_close(get(out), before,
                     precision == DType::f32 ? kFloatTolerance
                     : precision == DType::bf16
                         ? kBf16Tolerance
                         : kInt8Tolerance + (out_dtype == DType::bf16 ? kBf16Tolerance / 2 : 0),
                     std::string(to_string(precision)) + "_" + std::to_string(s.m) + "x" +
                         std::to_string(s.n) + "x" + std::to_string(s.k) + "_" +
                         std::to_string(static_cast<int>(kind)));
      }
    }
  }
}

/// A linear that adds to a residual stream, and the norm and linear that read it afterwards: the
/// row's statistics come out of the first one's epilogue.
TEST_F(CudaKernels, ANormAfterASumUsesWhatTheSumLeftBehind) {
  // Alone and in every batch the same bits: what a row of the largest gives.
  std::vector<float> largest;
  const std::int64_t most = 2048;
  auto all_x = normal(static_cast<std::size_t>(most * 512)), all_z = normal(all_x.size(), 3);
  for (const std::int64_t m : {most, std::int64_t{4}, std::int64_t{40}, std::int64_t{300}}) {
    random_.seed(9);
    const std::int64_t d = 512, hidden = 1024;
    std::vector<float> x(all_x.begin(), all_x.begin() + m * d);
    std::vector<float> z(all_z.begin(), all_z.begin() + m * d);
    const Linear first =
        linear_of(normal(static_cast<std::size_t>(d * d), 0.05), d, d, DType::bf16);
    const Linear second =
        linear_of(normal(static_cast<std::size_t>(hidden * d), 0.05), hidden, d, DType::bf16);
    std::vector<float> gain(static_cast<std::size_t>(d));
    for (float& g : gain) g = 0.5F + static_cast<float>(below(100)) / 100;
    const Tensor gain_tensor = tensor_of(gain, {d});
    OpsCapacity room;
    room.rows = m;
    room.inputs = hidden;
    ops_->reserve(room);
    const MatrixView on_device = put_matrix(x, m, d, DType::bf16);
    const MatrixView sums = put_matrix(z, m, d, DType::f32);
    const MatrixView out = poisoned(m, hidden, DType::bf16);
    const auto w1 = ops_->pack_linear({first.weight});
    const auto w2 = ops_->pack_linear({second.weight, nullptr, &gain_tensor});
    NormArgs norm{NormArgs::Kind::rms, put(gain), nullptr, 1e-6F};
    const int plan = 0;
    ops_->begin_forward();
    ASSERT_TRUE(ops_->begin_calls({&plan, m, 0}));
    ops_->norm_linear({}, on_device, *w1, nullptr, Epilogue::add, sums);
    ops_->norm_linear(norm, sums, *w2, nullptr, Epilogue::store, out);
    ops_->end_calls();
    ops_->end_forward();

    const auto reference = make_reference_ops();
    const auto r1 = reference->pack_linear({first.weight});
    const auto r2 = reference->pack_linear({second.weight});
    reference->norm_linear({}, matrix(x.data(), m, d), *r1, nullptr, Epilogue::add,
                           matrix(z.data(), m, d));
    std::vector<float> expected(static_cast<std::size_t>(m * hidden));
    norm.gain = gain.data();
    reference->norm_linear(norm, matrix(z.data(), m, d), *r2, nullptr, Epilogue::store,
                           matrix(expected.data(), m, hidden));
    expect_close(get(sums), z, 1e-5, "sums of " + std::to_string(m));
    const auto got = get(out);
    expect_close(got, expected, 1.5e-2, "rows of " + std::to_string(m));
    if (largest.empty()) largest = got;
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_EQ(got[i], largest[i]) << m << " rows, element " << i;
  }
}

TEST_F(CudaKernels, ARowHasTheSameBitsInAnyBatch) {
  for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
    for (const std::int64_t k : {512, 2048}) {
      const std::int64_t n = testing::brief() ? 128 : 512, most = testing::brief() ? 1000 : 4096;
      const Linear linear =
          linear_of(normal(static_cast<std::size_t>(n * k), 0.05), n, k, precision);
      const auto packed =
          ops_->pack_linear({linear.weight, linear.scale.empty() ? nullptr : &linear.scale});
      auto x = normal(static_cast<std::size_t>(most * k));
      MatrixView rows = put_matrix(x, most, k, precision == DType::f32 ? DType::f32 : DType::bf16);
      std::vector<float> whole;
      for (const std::int64_t m :
           {most, std::int64_t{1}, std::int64_t{4}, std::int64_t{17}, std::int64_t{33},
            std::int64_t{64}, std::int64_t{200}, std::int64_t{1000}}) {
        rows.rows = m;
        const MatrixView out = poisoned(m, n, DType::f32);
        ops_->norm_linear({}, rows, *packed, nullptr, Epilogue::gelu, out);
        const auto got = get(out);
        if (whole.empty()) whole = got;
        for (std::size_t i = 0; i < got.size(); ++i)
          ASSERT_EQ(got[i], whole[i])
              << to_string(precision) << ", " << m << " rows, element " << i;
      }
    }
  }
}

TEST_F(CudaKernels, RowOperationsEqualTheReference) {
  const auto reference = make_reference_ops();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::int64_t rows = 90, cols = 200, items = 6, each = 15;
    auto x = normal(static_cast<std::size_t>(rows * cols));
    const auto gain = normal(static_cast<std::size_t>(cols));
    const MatrixView on_device = put_matrix(x, rows, cols, dtype);
    std::vector<float> expected(x.size());
    for (const auto kind : {NormArgs::Kind::rms, NormArgs::Kind::layer}) {
      NormArgs norm{kind, put(gain), kind == NormArgs::Kind::layer ? put(gain) : nullptr, 1e-5F};
      const MatrixView out = poisoned(rows, cols, dtype);
      ops_->normalize(norm, on_device, out);
      norm.gain = gain.data();
      if (norm.bias) norm.bias = gain.data();
      reference->normalize(norm, matrix(x.data(), rows, cols), matrix(expected.data(), rows, cols));
      expect_close(get(out), expected, tolerance_of(dtype), "normalize");
    }
    const MatrixView means = poisoned(items, cols, dtype);
    ops_->mean_rows(on_device, each, means);
    expected.resize(static_cast<std::size_t>(items * cols));
    reference->mean_rows(matrix(x.data(), rows, cols), each, matrix(expected.data(), items, cols));
    expect_close(get(means), expected, tolerance_of(dtype), "mean_rows");

    const std::int64_t columns = 6;
    auto scores = normal(static_cast<std::size_t>(rows * columns), 3);
    const MatrixView pooled = poisoned(items * columns, cols, DType::f32);
    ops_->softmax_pool(put_matrix(scores, rows, columns, DType::f32), on_device, each, pooled);
    expected.resize(static_cast<std::size_t>(items * columns * cols));
    reference->softmax_pool(matrix(scores.data(), rows, columns), matrix(x.data(), rows, cols),
                            each, matrix(expected.data(), items * columns, cols));
    expect_close(get(pooled), expected, kFloatTolerance, "softmax_pool");
  }
  auto x = normal(5 * 33);
  const MatrixView out = poisoned(15, 33, DType::f32);
  ops_->repeat_rows(put_matrix(x, 5, 33, DType::f32), out);
  const auto got = get(out);
  for (std::size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], x[i % x.size()]);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    auto rows = normal(7 * 64);
    const MatrixView many = poisoned(7 * 23, 64, dtype);
    ops_->repeat_rows(put_matrix(rows, 7, 64, dtype), many);
    const auto repeated = get(many);
    for (std::size_t i = 0; i < repeated.size(); ++i) EXPECT_EQ(repeated[i], rows[i % rows.size()]);
  }

  const std::vector<std::int64_t> step = {0, 7, 123456789, 50'000'000'000};
  const std::vector<double> periods = {40, 333.3, 4000};
  const MatrixView cosines = poisoned(4, 3, DType::f32), sines = poisoned(4, 3, DType::f32);
  std::vector<float> c(12), s(12);
  PhaseArgs phases{4, put(step), 20, 3, put(periods), cosines.data, sines.data};
  ops_->phases(phases);
  phases = {4, step.data(), 20, 3, periods.data(), c.data(), s.data()};
  reference->phases(phases);
  expect_close(get(cosines), c, 1e-6, "cosines");
  expect_close(get(sines), s, 1e-6, "sines");
}

TEST_F(CudaKernels, TokensEqualTheReference) {
  const auto reference = make_reference_ops();
  const int neurons = 30, bins = 50, values = 5;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int dim : {512, 30}) {
      for (const auto kind : {NormArgs::Kind::none, NormArgs::Kind::rms, NormArgs::Kind::layer}) {
        const std::int64_t width = 2 * dim, events = 101;
        const auto n = [&](int rows, std::int64_t columns) {
          return normal(static_cast<std::size_t>(rows * columns));
        };
        const auto raw_n = n(neurons, dim), raw_t = n(bins, dim), raw_v = n(values, dim);
        auto wide_n = n(neurons, width), wide_t = n(bins, width), wide_v = n(values, width);
        const auto factor = n(1, width), bias = n(1, width);
        std::vector<std::int32_t> neuron, bin, value;
        for (int e = 0; e < events; ++e) {
          neuron.push_back(below(neurons));
          bin.push_back(below(bins));
          value.push_back(below(9));
        }
        TokenArgs t{put(raw_n), put(raw_t),  put(raw_v), dim,       values,
                    events,     put(neuron), put(bin),   put(value)};
        TokenProjection p;
        p.norm = kind;
        p.eps = 1e-5F;
        p.dtype = dtype;
        p.width = width;
        p.neuron_table = put_matrix(wide_n, neurons, width, dtype).data;
        p.time_table = put_matrix(wide_t, bins, width, dtype).data;
        p.value_table = put_matrix(wide_v, values, width, dtype).data;
        p.mean_factor = put(factor);
        p.bias = put(bias);
        const MatrixView out = poisoned(events, width, dtype);
        ops_->project_tokens(t, p, out);
        t = {raw_n.data(), raw_t.data(),  raw_v.data(), dim,         values,
             events,       neuron.data(), bin.data(),   value.data()};
        p.dtype = DType::f32;
        p.neuron_table = wide_n.data();
        p.time_table = wide_t.data();
        p.value_table = wide_v.data();
        p.mean_factor = factor.data();
        p.bias = bias.data();
        std::vector<float> expected(static_cast<std::size_t>(events * width));
        if (kind == NormArgs::Kind::none) {
          for (std::int64_t e = 0; e < events; ++e)
            for (std::int64_t c = 0; c < width; ++c) {
              const auto at = [&](const std::vector<float>& table, std::int32_t row) {
                return table[static_cast<std::size_t>(row * width + c)];
              };
              const auto i = static_cast<std::size_t>(e);
              expected[static_cast<std::size_t>(e * width + c)] =
                  at(wide_n, neuron[i]) + at(wide_t, bin[i]) +
                  at(wide_v, std::min(value[i], values - 1));
            }
        } else {
          reference->project_tokens(t, p, matrix(expected.data(), events, width));
        }
        expect_close(get(out), expected, tolerance_of(dtype), "tokens");
      }
    }
  }
}

TEST_F(CudaKernels, RaggedAttentionEqualsTheReference) {
  const auto reference = make_reference_ops();
  struct Case {
    int heads, head_dim;
    std::int64_t queries;
    bool shared;
    double reach;  // of 120 bins; 0: dense
  };
  for (const Case& c : std::vector<Case>{{8, 64, 256, true, 0},
                                         {4, 64, 128, false, 0},
                                         {8, 64, 256, true, 12.5},
                                         {2, 64, 50, true, 3},
                                         {2, 16, 12, false, 0},
                                         {3, 40, 33, true, 10}}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const std::vector<int> counts = {0, 1, 63, 64, 65, 512, 700};
      const auto items = static_cast<int>(counts.size());
      const std::int64_t dim = static_cast<std::int64_t>(c.heads) * c.head_dim;
      std::vector<std::int32_t> indptr = {0}, bins;
      std::vector<double> item_bins;
      for (const int n : counts) {
        indptr.push_back(indptr.back() + n);
        std::vector<std::int32_t> sorted;
        for (int e = 0; e < n; ++e) sorted.push_back(below(120));
        if (n % 2 == 0) std::sort(sorted.begin(), sorted.end());
        bins.insert(bins.end(), sorted.begin(), sorted.end());
        item_bins.push_back(n == 63 ? 500 : 120);
      }
      const std::int64_t keys = indptr.back(), q_rows = c.shared ? c.queries : items * c.queries;
      auto q = normal(static_cast<std::size_t>(q_rows * dim), 1.5);
      auto kv = normal(static_cast<std::size_t>(keys * 2 * dim));
      RaggedAttentionArgs a;
      a.items = items;
      a.heads = c.heads;
      a.head_dim = c.head_dim;
      a.queries = c.queries;
      a.shared_q = c.shared;
      a.q = put_matrix(q, q_rows, dim, c.shared ? DType::f32 : dtype);
      a.k = put_matrix(kv, keys, 2 * dim, dtype);
      a.v = a.k.from_column(dim);
      a.indptr = put(indptr);
      a.out = poisoned(items * c.queries, dim, dtype);
      if (c.reach > 0) {
        a.key_bins = put(bins);
        a.item_bins = put(item_bins);
        a.reach_bins = c.reach;
      }
      ops_->ragged_attention(a);
      const auto got = get(a.out);
      a.q = matrix(q.data(), q_rows, dim);
      a.k = matrix(kv.data(), keys, 2 * dim);
      a.v = a.k.from_column(dim);
      a.indptr = indptr.data();
      std::vector<float> expected(got.size());
      a.out = matrix(expected.data(), items * c.queries, dim);
      if (c.reach > 0) {
        a.key_bins = bins.data();
        a.item_bins = item_bins.data();
      }
      reference->ragged_attention(a);
      expect_close(got, expected, tolerance_of(dtype),
                   "heads of " + std::to_string(c.head_dim) + " reach " + std::to_string(c.reach));
    }
  }
}

}  // namespace
}  // namespace cortex
