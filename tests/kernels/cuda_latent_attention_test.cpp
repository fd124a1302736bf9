#include "cuda_blocks_fixture.h"

/// Projection and attention among latents in one kernel. Skipped, with a line that says so, where
/// there is no Hopper GPU.
namespace cortex {
namespace {

using testing::size;
using testing::tensor_of;

class CudaLatentAttention : public testing::CudaBlocks<true> {
 protected:
  struct Case {
    int dim, latents;
  };
  static constexpr Case kCases[] = {{256, 128}, {512, 256}};

  /// What a window's block has, `type` being that of its weight: bf16, i8, or f32 for e4m3.
  void build(const Case& c, DType type) {
    memory_.clear();
    case_ = c;
    const auto n = static_cast<std::int64_t>(c.dim) * c.dim * 3;
    const Shape shape = {3 * std::int64_t{c.dim}, c.dim};
    values_ = normal(size(n), 1 / std::sqrt(c.dim));
    gains_ = normal(size(c.dim));
    const Tensor gain = tensor_of(gains_, {c.dim});
    norm_ = {NormArgs::Kind::rms, put(gains_), nullptr, 1e-6F};
    if (type == DType::i8) {
      Tensor integers(shape, DType::i8), scale({shape[0]});
      for (std::int64_t i = 0; i < n; ++i)
        reinterpret_cast<std::int8_t*>(integers.data())[i] =
            static_cast<std::int8_t>(below(255) - 127);
      for (float& x : scale.f32()) x = (1 + 0.01F * static_cast<float>(below(100))) / 2000;
      weight_ = ops_->pack_linear({.weight = integers, .scale = &scale, .any_order = true});
    } else {
      const Tensor narrow = to_bfloat16(tensor_of(values_, shape));
      const Tensor back = to_float(narrow);
      values_.assign(back.f32().begin(), back.f32().end());
      weight_ = ops_->pack_linear(
          {.weight = narrow, .gain = &gain, .any_order = true, .narrow = type == DType::f32});
    }
  }
  void open(int items, std::vector<float>& x) {
    const std::int64_t rows = std::int64_t{items} * case_.latents;
    x_ = put_matrix(x, rows, case_.dim, DType::bf16);
    room_ = poisoned(rows, 3 * std::int64_t{case_.dim}, DType::bf16);
    attention_ = {};
    attend_latents(attention_, items, case_.dim / 64, room_);
  }
  std::vector<float> in_one() {
    attention_.out = poisoned(x_.rows, case_.dim, DType::bf16);
    ops_->project_and_attend(norm_, x_, *weight_, room_, attention_);
    return get(attention_.out);
  }
  std::vector<float> one_by_one() {
    attention_.out = poisoned(x_.rows, case_.dim, DType::bf16);
    ops_->Ops::project_and_attend(norm_, x_, *weight_, room_, attention_);
    return get(attention_.out);
  }
  std::vector<float> rows_of(int items) {
    return normal(size(std::int64_t{items} * case_.latents * case_.dim), 2);
  }

  Case case_ = {};
  std::vector<float> values_, gains_;
  NormArgs norm_;
  std::unique_ptr<LinearWeight> weight_;
  MatrixView x_, room_;
  RaggedAttentionArgs attention_;
};

TEST_F(CudaLatentAttention, EqualsTheTwoOperationsInEveryTypeAndShape) {
  for (const DType type : {DType::bf16, DType::i8, DType::f32}) {
    if (type == DType::f32) {
      memory_.clear();
      set_up({.fp8 = true});
    }
    for (const Case& c : kCases) {
      // One and several heads a cluster; one alone with e4m3.
      const int one_each = c.latents == 128 ? 24 : 8;
      for (const int items : {one_each, 37}) {
        if (type == DType::f32 && items > one_each) continue;
        build(c, type);
        auto x = rows_of(items);
        open(items, x);
        const auto got = in_one();
        for (const float unused : get(room_)) ASSERT_TRUE(std::isnan(unused)) << "two operations";
        expect_close(got, one_by_one(), testing::kBf16Tolerance,
                     std::to_string(static_cast<int>(type)) + ": " + std::to_string(items) +
                         " items of " + std::to_string(c.latents));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(CudaLatentAttention, EqualsTheReference) {
  const auto reference = make_reference_ops();
  for (const Case& c : kCases) {
    build(c, DType::bf16);
    auto x = rows_of(24);
    open(24, x);
    const auto got = in_one();
    const Tensor rows = tensor_of(values_, {3 * std::int64_t{c.dim}, c.dim});
    const auto weight = reference->pack_linear({rows});
    std::vector<std::int32_t> indptr;
    for (int i = 0; i <= 24; ++i) indptr.push_back(i * c.latents);
    std::vector<float> room(3 * x.size()), expected(x.size());
    RaggedAttentionArgs a = attention_;
    const MatrixView qkv = matrix(room.data(), x_.rows, 3 * std::int64_t{c.dim});
    a.q = qkv;
    a.k = qkv.from_column(c.dim);
    a.v = qkv.from_column(2 * c.dim);
    a.indptr = indptr.data();
    a.out = matrix(expected.data(), x_.rows, c.dim);
    reference->project_and_attend({norm_.kind, gains_.data(), nullptr, norm_.eps},
                                  matrix(x.data(), x_.rows, c.dim), *weight, qkv, a);
    expect_close(got, expected, 2 * testing::kBf16Tolerance, std::to_string(c.latents));
  }
}

TEST_F(CudaLatentAttention, AWindowHasTheSameBitsEveryTimeAndBesideOthers) {
  for (const Case& c : kCases) {
    build(c, DType::bf16);
    auto x = rows_of(24);
    open(24, x);
    const auto first = in_one();
    for (int i = 0; i < 20; ++i) ASSERT_EQ(in_one(), first) << "run " << i;
    auto many = rows_of(40);
    std::copy(x.begin(), x.end(), many.end() - static_cast<std::ptrdiff_t>(x.size()));
    open(40, many);
    for (int i = 0; i < 20; ++i) {
      const auto of_all = in_one();
      ASSERT_TRUE(std::equal(first.begin(), first.end(),
                             of_all.end() - static_cast<std::ptrdiff_t>(first.size())))
          << "run " << i << " of " << c.latents;
    }
  }
}

TEST_F(CudaLatentAttention, OtherShapesAreLeftToTheOperations) {
  for (const Case& c : {Case{256, 192}, Case{256, 128}, Case{768, 384}}) {
    const int items = c.latents == 128 ? 2 : 24;
    build(c, DType::bf16);
    auto x = rows_of(items);
    open(items, x);
    const auto got = in_one();
    for (const float used : get(room_)) ASSERT_FALSE(std::isnan(used));
    EXPECT_EQ(got, one_by_one());
  }
}

}  // namespace
}  // namespace cortex
