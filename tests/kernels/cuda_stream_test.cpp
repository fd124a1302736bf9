#include "cuda_fixture.h"

/// Operations of streams on the CUDA backend against plain C++ in float32, and against themselves
/// in other batches. Skipped, with a line that says so, where there is no GPU.
namespace cortex {
namespace {

using testing::CudaKernels;
using testing::kBriefWindow;
using testing::kFloatTolerance;

std::size_t size(std::int64_t n) { return static_cast<std::size_t>(n); }

struct Shape {
  int heads, head_dim, latents, window, page_steps, streams;
};

/// Streams in a pool on the device and in one of the reference. Stream b joins at step `delay` in
/// slot `first`; a last item is padding.
struct Pages {
  Shape shape;
  DType dtype = DType::f32;
  std::int64_t page_elements = 0;
  Buffer pool;
  std::vector<float> reference_pool;
  std::vector<std::int32_t> indptr, table, slot, live;
  std::vector<int> first, delay;
};

/// Parameter: no kernel that needs more than sm_80.
class CudaStreams : public CudaKernels, public ::testing::WithParamInterface<bool> {
 protected:
  static constexpr int kLayers = 2;

  void SetUp() override { set_up({.portable = GetParam()}); }

  Pages pages_of(const Shape& s, DType dtype) {
    Pages p;
    p.shape = s;
    p.dtype = dtype;
    const int pages = (s.window + s.page_steps - 1) / s.page_steps, all = pages * s.streams;
    p.page_elements = std::int64_t{2} * kLayers * s.page_steps * s.latents * s.heads * s.head_dim;
    p.pool = ops_->allocate(size(p.page_elements * all) * size_of(dtype));
    ops_->clear(p.pool);
    p.reference_pool.resize(size(p.page_elements * all));
    for (int i = 0; i < all; ++i) p.table.push_back(i);
    std::shuffle(p.table.begin(), p.table.end(), random_);
    for (int b = 0; b <= s.streams + 1; ++b) p.indptr.push_back(std::min(b, s.streams) * pages);
    p.slot.assign(size(s.streams + 1), 0);
    p.live.assign(size(s.streams + 1), 0);
    for (int b = 0; b < s.streams; ++b) {
      p.first.push_back(b == 0 ? 0 : below(s.window));
      p.delay.push_back(b % 4 == 3 ? below(5) : 0);
    }
    return p;
  }

  /// Step `number` of all streams, against the reference; then some of them alone, bit for bit.
  void step(Pages& p, int number) {
    const Shape& s = p.shape;
    const int half = s.head_dim / 2, dim = s.heads * s.head_dim;
    const std::int64_t rows = std::int64_t{s.streams} * s.latents;
    for (int b = 0; b < s.streams; ++b) {
      const auto i = size(b);
      p.slot[i] = (p.first[i] + number) % s.window;
      p.live[i] = std::clamp(number + 1 - p.delay[i], 0, s.window);
    }
    auto qkv = normal(size((rows + s.latents) * 3 * dim), 1.5);
    std::vector<float> cosines, sines, expected(size(rows * dim));
    for (int i = 0; i < (s.streams + 1) * half; ++i) {
      cosines.push_back(std::cos(0.1F * static_cast<float>(number * i)));
      sines.push_back(std::sin(0.1F * static_cast<float>(number * i)));
    }
    const auto kept = memory_.size();
    PagedAttentionArgs a;
    a.steps = s.streams + 1;
    a.heads = s.heads;
    a.head_dim = s.head_dim;
    a.latents = s.latents;
    a.layer = number % kLayers;
    a.cosines = put(cosines);
    a.sines = put(sines);
    a.cache = {p.pool.as<std::byte>(),
               p.page_elements * static_cast<std::int64_t>(size_of(p.dtype)),
               p.dtype,
               s.page_steps,
               s.window,
               put(p.indptr),
               put(p.table),
               put(p.slot),
               put(p.live)};
    a.qkv = put_matrix(qkv, rows + s.latents, 3 * dim, p.dtype);
    a.out = poisoned(rows + s.latents, dim, p.dtype);
    ops_->paged_attention(a);
    const auto got = get(a.out);
    for (std::size_t i = expected.size(); i < got.size(); ++i) ASSERT_EQ(got[i], 0);

    for (int b = 0; b < s.streams; b += std::max(1, s.streams / 3)) {
      PagedAttentionArgs one = a;
      one.steps = 1;
      one.cosines += b * half;
      one.sines += b * half;
      one.cache.indptr += b;
      one.cache.slot += b;
      one.cache.live += b;
      const auto bytes = static_cast<std::int64_t>(size_of(p.dtype)) * b * s.latents * 3 * dim;
      one.qkv.data = reinterpret_cast<float*>(reinterpret_cast<std::byte*>(one.qkv.data) + bytes);
      one.out = poisoned(s.latents, dim, p.dtype);
      ops_->paged_attention(one);
      const auto alone = get(one.out);
      for (std::size_t i = 0; i < alone.size(); ++i)
        ASSERT_EQ(alone[i], got[size(b) * alone.size() + i])
            << "stream " << b << " alone, element " << i << ", step " << number;
    }

    PagedAttentionArgs plain = a;
    plain.steps = s.streams;
    plain.cosines = cosines.data();
    plain.sines = sines.data();
    plain.cache = {reinterpret_cast<std::byte*>(p.reference_pool.data()),
                   p.page_elements * 4,
                   DType::f32,
                   s.page_steps,
                   s.window,
                   p.indptr.data(),
                   p.table.data(),
                   p.slot.data(),
                   p.live.data()};
    plain.qkv = matrix(qkv.data(), rows, 3 * dim);
    plain.out = matrix(expected.data(), rows, dim);
    // The reference has no streams that wait: they are left out one by one.
    for (int b = 0; b < s.streams; ++b) {
      if (p.live[size(b)] == 0) continue;
      PagedAttentionArgs one = plain;
      one.steps = 1;
      one.cosines += b * half;
      one.sines += b * half;
      one.cache.indptr += b;
      one.cache.slot += b;
      one.cache.live += b;
      one.qkv.data += std::int64_t{b} * s.latents * 3 * dim;
      one.out.data += std::int64_t{b} * s.latents * dim;
      reference_->paged_attention(one);
    }
    expect_close(
        {got.begin(), got.begin() + static_cast<std::ptrdiff_t>(expected.size())}, expected,
        p.dtype == DType::f32 ? 2e-5 : 2e-2,  // up to 800 keys are summed in float32

        "step " + std::to_string(number) + ", heads of " + std::to_string(s.head_dim) + ", " +
            std::to_string(s.latents) + " latents, window of " + std::to_string(s.window));
    memory_.erase(memory_.begin() + static_cast<std::ptrdiff_t>(kept), memory_.end());
  }

  std::unique_ptr<Ops> reference_ = make_reference_ops();
};

TEST_P(CudaStreams, PagedAttentionEqualsTheReferenceOverAWindowThatFillsAndWraps) {
  for (Shape s : std::vector<Shape>{{4, 32, 1, 50, 32, 4},
                                    {8, 64, 4, 50, 8, 5},
                                    {2, 64, 2, 10, 16, 4},
                                    {1, 64, 6, 7, 16, 4},
                                    {4, 64, 8, 50, 8, 4},   // two rounds of blocks
                                    {2, 64, 16, 20, 8, 4},  // both halves of the rows
                                    {2, 32, 16, 50, 8, 4},  // four rounds
                                    {3, 32, 9, 21, 32, 4},  // rows across blocks
                                    {12, 64, 4, 64, 8, 4},  // whole pages
                                    {1, 64, 4, 1, 8, 4},    // itself alone
                                    {2, 32, 3, 33, 32, 4},  // a page and a step
                                    {2, 8, 4, 9, 8, 4},     // the plain kernel
                                    {2, 40, 3, 11, 8, 4},
                                    {2, 64, 17, 9, 32, 4}}) {
    if (testing::brief()) s.window = std::min(s.window, kBriefWindow);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      Pages p = pages_of(s, dtype);
      const int steps = testing::brief() ? s.window + 2 : 2 * s.window + 3;
      for (int number = 0; number < steps; ++number) {
        step(p, number);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(CudaStreams, PagedAttentionHasTheSameBitsAloneAndAmongManyStreams) {
  for (Shape s : std::vector<Shape>{{8, 64, 4, 50, 8, 45},    // more heads than processors
                                    {4, 32, 1, 50, 32, 400},  // and than blocks at once
                                    {2, 64, 16, 20, 8, 150},
                                    {2, 64, 8, 50, 8, 150}}) {
    if (testing::brief()) s.window = std::min(s.window, kBriefWindow);
    Pages p = pages_of(s, DType::bf16);
    for (int number = 0; number < s.window + 9; ++number) {
      step(p, number);
      if (HasFatalFailure()) return;
    }
  }
}

struct TableShape {
  int heads, head_dim, latents, values;
};

/// Tables of a stream model on the device and in host memory, and packed events likewise.
class CudaStreamInputs : public CudaKernels {
 protected:
  static constexpr int kUnits = 20, kOffsets = 12;

  void fill(const TableShape& s, const std::vector<int>& counts) {
    const std::int64_t dim = s.heads * s.head_dim, queries = s.heads * s.latents;
    StreamTables t;
    t.dim = static_cast<int>(dim);
    t.heads = s.heads;
    t.head_dim = s.head_dim;
    t.latents = s.latents;
    t.value_buckets = s.values;
    t.offsets = kOffsets;
    tables_ = host_tables_ = t;
    host_.clear();
    host_.reserve(16);
    const auto both = [&](const float* StreamTables::*at, std::int64_t n, bool positive = false) {
      auto values = normal(size(n));
      if (positive)
        for (float& x : values) x = std::abs(x) + 0.5F;
      host_.push_back(std::move(values));
      host_tables_.*at = host_.back().data();
      tables_.*at = put(host_.back());
    };
    both(&StreamTables::unit_score, kUnits * kOffsets * queries);
    both(&StreamTables::value_score, s.values * kOffsets * queries);
    both(&StreamTables::unit_v, kUnits * dim);
    both(&StreamTables::value_v, s.values * dim);
    both(&StreamTables::rstd, kUnits * s.values, true);
    both(&StreamTables::null_score, queries);
    both(&StreamTables::null_v, dim);
    both(&StreamTables::latent, s.latents * dim);
    both(&StreamTables::additive, kUnits * s.latents * dim);
    indptr_ = {0};
    present_.clear();
    event_.clear();
    for (const int count : counts) {
      present_.push_back(indptr_.back() + count / 2);
      for (int e = 0; e < count; ++e)
        event_.push_back({below(kUnits), 1 + below(s.values + 4), below(kOffsets)});
      indptr_.push_back(indptr_.back() + count);
    }
    const auto steps = static_cast<int>(counts.size());
    host_events_ = {steps, indptr_.data(), present_.data(), event_.data()};
    events_ = {steps, put(indptr_), put(present_), put(event_)};
    rows_ = std::int64_t{steps} * s.latents;
  }

  StreamTables tables_, host_tables_;
  StreamEvents events_, host_events_;
  std::int64_t rows_ = 0;

 private:
  std::vector<std::vector<float>> host_;
  std::vector<std::int32_t> indptr_, present_;
  std::vector<StreamEvent> event_;
};

const std::vector<TableShape> kTables = {{4, 32, 1, 5},  {8, 64, 4, 8}, {8, 64, 4, 40},
                                         {2, 16, 2, 5},  {1, 64, 6, 3}, {2, 64, 8, 16},
                                         {2, 32, 16, 8}, {3, 30, 4, 5}, {1, 256, 4, 8}};

TEST_F(CudaStreamInputs, CrossAttentionAndTheAdditiveBagEqualTheReference) {
  const auto reference = make_reference_ops();
  for (const TableShape& s : kTables) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      fill(s, {0, 3, 700, 41, 128, 256, 257, 1});
      const std::int64_t dim = tables_.dim;
      std::vector<float> expected(size(rows_ * dim));
      const MatrixView out = poisoned(rows_, dim, dtype), sums = poisoned(rows_, dim, DType::f32);
      const std::string what = std::to_string(s.head_dim) + " wide heads, " +
                               std::to_string(s.latents) + " latents, " + std::to_string(s.values) +
                               " values";
      ops_->stream_cross_attention(tables_, events_, out);
      reference->stream_cross_attention(host_tables_, host_events_,
                                        matrix(expected.data(), rows_, dim));
      expect_close(get(out), expected, tolerance_of(dtype), "cross-attention, " + what);
      if (HasFatalFailure()) return;
      ops_->additive_bag(tables_, events_, sums);
      reference->additive_bag(host_tables_, host_events_, matrix(expected.data(), rows_, dim));
      expect_close(get(sums), expected, kFloatTolerance, "additive bag, " + what);
      if (HasFatalFailure()) return;
      memory_.clear();
    }
  }
}

TEST_F(CudaStreamInputs, OneLaunchGivesWhatThreeGiveAndAStreamTheSameBitsInAnyBatch) {
  for (const TableShape& s : kTables) {
    std::vector<int> counts;
    for (int b = 0; b < 203; ++b) counts.push_back(below(b % 10 == 0 ? 400 : 60));
    fill(s, counts);
    const std::int64_t dim = tables_.dim, pairs = s.head_dim / 2;
    std::vector<std::int64_t> number;
    for (int b = 0; b < events_.steps; ++b) number.push_back(1000 + b);
    std::vector<double> periods;
    for (int i = 0; i < pairs; ++i) periods.push_back(40.0 + 7 * i);
    PhaseArgs phases{events_.steps,
                     put(number),
                     20,
                     static_cast<int>(pairs),
                     put(periods),
                     poisoned(events_.steps, pairs, DType::f32).data,
                     poisoned(events_.steps, pairs, DType::f32).data};
    const MatrixView out = poisoned(rows_, dim, DType::bf16);
    const MatrixView sums = poisoned(rows_, dim, DType::f32);
    ops_->stream_inputs(phases, tables_, events_, sums, out);
    const auto all_out = get(out), all_sums = get(sums);
    const auto all_cosines = get(matrix(phases.cosines, events_.steps, pairs)),
               all_sines = get(matrix(phases.sines, events_.steps, pairs));

    phases.cosines = poisoned(events_.steps, pairs, DType::f32).data;
    phases.sines = poisoned(events_.steps, pairs, DType::f32).data;
    ops_->phases(phases);
    EXPECT_EQ(get(matrix(phases.cosines, events_.steps, pairs)), all_cosines);
    EXPECT_EQ(get(matrix(phases.sines, events_.steps, pairs)), all_sines);
    for (int b = 0; b < events_.steps; b += 29) {
      StreamEvents one = events_;
      one.steps = 1;
      one.indptr += b;
      one.present += b;
      const MatrixView alone = poisoned(s.latents, dim, DType::bf16);
      const MatrixView alone_sums = poisoned(s.latents, dim, DType::f32);
      ops_->stream_cross_attention(tables_, one, alone);
      ops_->additive_bag(tables_, one, alone_sums);
      const auto at = static_cast<std::ptrdiff_t>(b * s.latents * dim), n = at + s.latents * dim;
      EXPECT_EQ(get(alone), std::vector<float>(all_out.begin() + at, all_out.begin() + n)) << b;
      EXPECT_EQ(get(alone_sums), std::vector<float>(all_sums.begin() + at, all_sums.begin() + n))
          << b;
    }
    memory_.clear();
  }
}

TEST_F(CudaKernels, TheNormedRowsOfAStepTimesAHeadEqualTheReference) {
  struct Head {
    std::int64_t steps, latents, cols, outputs;
  };
  for (const Head& h : std::vector<Head>{{1, 4, 512, 2},
                                         {300, 4, 512, 2},
                                         {7, 1, 128, 3},
                                         {5, 16, 256, 200},
                                         {3, 6, 72, 1},
                                         {3, 4, 20, 2}}) {
    for (const DType dtype : {DType::f32, DType::bf16, DType::i8}) {
      const std::int64_t rows = h.steps * h.latents, inputs = h.latents * h.cols;
      auto x = normal(size(rows * h.cols), 3);
      const auto gain = normal(size(h.cols)), bias = normal(size(h.outputs));
      const auto values = normal(size(h.outputs * inputs), 0.05);
      Tensor weight({h.outputs, inputs}), scale({h.outputs});
      std::copy(values.begin(), values.end(), weight.f32().begin());
      Tensor packed = weight.clone();
      if (dtype == DType::bf16) packed = to_bfloat16(weight);
      if (dtype == DType::i8) {
        packed = Tensor({h.outputs, inputs}, DType::i8);
        for (std::size_t i = 0; i < values.size(); ++i)
          packed.data()[i] = static_cast<std::byte>(static_cast<std::int8_t>(
              std::clamp<long>(std::lround(values[i] / 0.002F), -127, 127)));
        for (float& f : scale.f32()) f = 0.002F;
      }
      const LinearTensor given{packed, dtype == DType::i8 ? &scale : nullptr};
      const MatrixView on_device = put_matrix(x, rows, h.cols, DType::f32);
      const MatrixView scratch =
          poisoned(rows, h.cols, dtype == DType::f32 ? DType::f32 : DType::bf16);
      const MatrixView out = poisoned(h.steps, h.outputs, DType::f32);
      NormArgs norm{NormArgs::Kind::rms, put(gain), nullptr, 1e-6F};
      const auto linear = ops_->pack_linear(given);
      ops_->norm_concat_linear(norm, on_device, scratch, *linear, put(bias), out);

      const auto reference = make_reference_ops();
      norm.gain = gain.data();
      std::vector<float> normed(x.size()), expected(size(h.steps * h.outputs));
      const auto plain = reference->pack_linear(given);
      reference->norm_concat_linear(norm, matrix(x.data(), rows, h.cols),
                                    matrix(normed.data(), rows, h.cols), *plain, bias.data(),
                                    matrix(expected.data(), h.steps, h.outputs));
      const auto got = get(out);
      expect_close(got, expected,
                   dtype == DType::f32    ? kFloatTolerance
                   : dtype == DType::bf16 ? 2e-2
                                          : 8e-2,  // activations of 8 bits beside exact ones
                   std::string(to_string(dtype)) + " head of " + std::to_string(inputs));
      if (HasFatalFailure()) return;

      // The last step alone.
      const MatrixView alone = poisoned(1, h.outputs, DType::f32);
      const MatrixView last =
          matrix(on_device.data + (rows - h.latents) * h.cols, h.latents, h.cols);
      const MatrixView last_scratch = matrix(scratch.data, h.latents, h.cols, scratch.dtype);
      norm.gain = put(gain);
      ops_->norm_concat_linear(norm, last, last_scratch, *linear, put(bias), alone);
      EXPECT_EQ(get(alone), std::vector<float>(got.end() - h.outputs, got.end()));
      memory_.clear();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, CudaStreams, ::testing::Values(false, true),
                         [](const auto& p) { return std::string(p.param ? "Portable" : "Best"); });

}  // namespace
}  // namespace cortex
