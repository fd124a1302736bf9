#include "quant/quantize_linear.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <random>

namespace cortex::testing {
namespace {

Tensor normal(std::int64_t out, std::int64_t in, std::uint64_t seed, float outlier = 0) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> gauss(0, 0.05F);
  Tensor w({out, in});
  for (float& v : w.f32()) v = gauss(random);
  if (outlier != 0)
    for (std::int64_t o = 0; o < out; ++o) w.f32()[static_cast<std::size_t>(o * in)] = outlier;
  return w;
}

double lost(const Tensor& w, Clipping clipping) {
  const QuantizedLinear q = quantize_rows(w, clipping);
  return relative_error(to_float(q.weight, &q.scale), w);
}

TEST(QuantizeRows, AbsmaxIsWithinHalfAStepOfEveryWeight) {
  const Tensor w = normal(12, 96, 1);
  const QuantizedLinear q = quantize_rows(w, Clipping::absmax);
  const Tensor back = to_float(q.weight, &q.scale);
  for (std::size_t i = 0; i < w.f32().size(); ++i)
    EXPECT_LE(std::abs(back.f32()[i] - w.f32()[i]), 0.5001F * q.scale.f32()[i / 96]);
  for (std::size_t o = 0; o < 12; ++o) {
    const auto row = w.f32().subspan(o * 96, 96);
    const float largest = std::abs(*std::max_element(
        row.begin(), row.end(), [](float a, float b) { return std::abs(a) < std::abs(b); }));
    EXPECT_FLOAT_EQ(q.scale.f32()[o], largest / 127);
  }
}

TEST(QuantizeRows, EveryRowHasAScaleOfItsOwn) {
  Tensor w = normal(2, 64, 2);
  for (std::size_t i = 0; i < 64; ++i) w.f32()[i] *= 1000;
  const QuantizedLinear q = quantize_rows(w, Clipping::absmax);
  EXPECT_GT(q.scale.f32()[0], 100 * q.scale.f32()[1]);
  EXPECT_LT(relative_error(to_float(q.weight, &q.scale), w), 0.02);
}

TEST(QuantizeRows, TheSmallestSquaredErrorIsNeverWorseThanAbsmax) {
  rc::check("mse <= absmax", [] {
    const auto seed = *rc::gen::arbitrary<std::uint64_t>();
    const Tensor w =
        normal(3, 1 + static_cast<std::int64_t>(seed % 70), seed, seed % 2 == 0 ? 0.0F : 0.4F);
    RC_ASSERT(lost(w, Clipping::mse) <= lost(w, Clipping::absmax));
  });
  EXPECT_LT(lost(normal(8, 512, 3), Clipping::mse), lost(normal(8, 512, 3), Clipping::absmax));
}

TEST(QuantizeRows, ThePercentileClipsAnOutlier) {
  const Tensor w = normal(4, 256, 4, 5.0F);
  const QuantizedLinear plain = quantize_rows(w, Clipping::absmax);
  const QuantizedLinear clipped = quantize_rows(w, Clipping::percentile);
  for (std::size_t o = 0; o < 4; ++o) {
    EXPECT_LT(clipped.scale.f32()[o], 0.1F * plain.scale.f32()[o]);
    EXPECT_EQ(static_cast<std::int8_t>(clipped.weight.data()[o * 256]), 127);
  }
}

TEST(QuantizeRows, ScalesArePositiveAndIntegersSymmetricWhateverTheRow) {
  Tensor w({4, 8});
  w.f32()[8] = 1e-44F;                                          // vanishes
  for (std::size_t i = 16; i < 24; ++i) w.f32()[i] = -3.0e38F;  // huge
  w.f32()[25] = 0.5F;                                           // alone in its row
  for (const Clipping clipping : kClippings) {
    const QuantizedLinear q = quantize_rows(w, clipping);
    for (const float s : q.scale.f32()) {
      EXPECT_GT(s, 0);
      EXPECT_TRUE(std::isfinite(s));
    }
    for (std::size_t i = 0; i < q.weight.bytes(); ++i)
      EXPECT_GE(static_cast<std::int8_t>(q.weight.data()[i]), -127);
    EXPECT_EQ(static_cast<std::int8_t>(q.weight.data()[0]), 0);
    EXPECT_EQ(static_cast<std::int8_t>(q.weight.data()[25]), 127) << to_string(clipping);
  }
}

TEST(QuantizeRow, RoundsToNearestWithTiesToEven) {
  const std::vector<float> x = {127, 0.5F, 1.5F, -2.5F, -127, 3.4F, -3.6F};
  std::vector<std::int16_t> q(x.size());
  EXPECT_EQ(quantize_row(x, q.data()), 1.0F);
  EXPECT_EQ(q, (std::vector<std::int16_t>{127, 0, 2, -2, -127, 3, -4}));
}

TEST(QuantizeRow, ASilentRowHasScaleZero) {
  const std::vector<float> x(5, 0.0F);
  std::vector<std::int16_t> q(5, 9);
  EXPECT_EQ(quantize_row(x, q.data()), 0.0F);
  EXPECT_EQ(q, std::vector<std::int16_t>(5, 0));
}

}  // namespace
}  // namespace cortex::testing
