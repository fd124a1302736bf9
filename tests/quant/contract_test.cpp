#include <cstring>

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cpu/cpu_ops.h"
#include "quant/quantize_linear.h"
#include "support/precision_ops.h"

namespace cortex::testing {
namespace {

constexpr std::int64_t kRows = 5;
constexpr std::int64_t kIn = 70;
constexpr std::int64_t kOut = 33;

class Precision : public ::testing::Test {
 protected:
  Precision() {
    std::mt19937_64 random(5);
    std::normal_distribution<float> gauss;
    for (Tensor* t : {&w_, &x_, &bias_, &gain_})
      for (float& v : t->f32()) v = gauss(random);
    for (float& v : x_.f32().subspan(2 * kIn, kIn)) v = 0;  // one silent row
  }

  NormArgs rms() { return {NormArgs::Kind::rms, gain_.f32().data(), nullptr, 1e-6F}; }

  Tensor run(const LinearTensor& linear, Epilogue epilogue, float before = 0) {
    const auto packed = ops_.pack_linear(linear);
    Tensor y({kRows, kOut});
    for (float& v : y.f32()) v = before;
    ops_.norm_linear(rms(), matrix(x_.f32().data(), kRows, kIn), *packed, bias_.f32().data(),
                     epilogue, matrix(y.f32().data(), kRows, kOut));
    return y;
  }

  Tensor normed() {
    Tensor n({kRows, kIn});
    base_->normalize(rms(), matrix(x_.f32().data(), kRows, kIn),
                     matrix(n.f32().data(), kRows, kIn));
    return n;
  }

  Tensor w_{{kOut, kIn}};
  Tensor x_{{kRows, kIn}};
  Tensor bias_{{kOut}};
  Tensor gain_{{kIn}};
  std::unique_ptr<Ops> base_ = make_reference_ops();
  PrecisionOps ops_{*base_};
};

TEST_F(Precision, Int8EqualsANaiveIntegerComputationBitForBit) {
  const QuantizedLinear q = quantize_rows(w_, Clipping::mse);
  const Tensor x = normed();
  const Tensor stored = run(q.view(), Epilogue::store);
  const Tensor added = run(q.view(), Epilogue::add, 2);
  const Tensor gelu = run(q.view(), Epilogue::gelu);
  for (std::int64_t m = 0; m < kRows; ++m) {
    const float* row = x.f32().data() + m * kIn;
    float largest = 0;
    for (std::int64_t i = 0; i < kIn; ++i) largest = std::max(largest, std::abs(row[i]));
    for (std::int64_t o = 0; o < kOut; ++o) {
      std::int64_t sum = 0;
      for (std::int64_t i = 0; i < kIn; ++i) {
        const auto a = largest > 0 ? static_cast<int>(std::lrint(row[i] * (127 / largest))) : 0;
        sum += a * static_cast<std::int8_t>(q.weight.data()[o * kIn + i]);
      }
      const float y = static_cast<float>(sum) * (q.scale.f32()[o] * (largest / 127)) +
                      bias_.f32()[static_cast<std::size_t>(o)];
      const auto at = static_cast<std::size_t>(m * kOut + o);
      EXPECT_EQ(stored.f32()[at], y);
      EXPECT_EQ(added.f32()[at], 2 + y);
      EXPECT_NEAR(gelu.f32()[at], 0.5 * y * (1 + std::erf(y / std::sqrt(2.0))),
                  1e-6 + 1e-6 * std::abs(y));
    }
  }
}

TEST_F(Precision, Int8IsCloseToFloat) {
  const QuantizedLinear q = quantize_rows(w_, Clipping::absmax);
  const double error = relative_error(run(q.view(), Epilogue::store), run({w_}, Epilogue::store));
  EXPECT_LT(error, 0.02);
  EXPECT_GT(error, 0);
}

TEST_F(Precision, Bf16RoundsActivationsAndWeights) {
  const Tensor narrow = to_bfloat16(w_);
  const Tensor w = to_float(narrow);
  const Tensor x = to_float(to_bfloat16(normed()));
  const Tensor y = run({narrow}, Epilogue::store);
  for (std::int64_t m = 0; m < kRows; ++m) {
    for (std::int64_t o = 0; o < kOut; ++o) {
      double sum = bias_.f32()[static_cast<std::size_t>(o)];
      for (std::int64_t i = 0; i < kIn; ++i)
        sum += static_cast<double>(x.f32()[static_cast<std::size_t>(m * kIn + i)]) *
               w.f32()[static_cast<std::size_t>(o * kIn + i)];
      EXPECT_NEAR(y.f32()[static_cast<std::size_t>(m * kOut + o)], sum, 1e-4);
    }
  }
}

TEST_F(Precision, TheCpuBackendComputesTheSameIntegers) {
  const QuantizedLinear q = quantize_rows(w_, Clipping::mse);
  // No norm: its last bits may move an activation across a rounding edge.
  const auto run_plain = [&](Ops& ops) {
    const auto packed = ops.pack_linear(q.view());
    const auto bytes = [](const Tensor& t) { return t.bytes(); };
    const Buffer x = ops.allocate(bytes(x_));
    ops.upload(x, x_.data(), bytes(x_));
    Tensor y({kRows, kOut});
    const Buffer out = ops.allocate(bytes(y));
    ops.norm_linear({}, matrix(x.f32(), kRows, kIn), *packed, nullptr, Epilogue::store,
                    matrix(out.f32(), kRows, kOut));
    ops.download(y.f32().data(), out.f32(), bytes(y));
    return y;
  };
  const Tensor expected = run_plain(ops_);
  for (const std::string& isa : cpu_isas()) {
    const auto cpu = make_cpu_ops({.threads = 1, .isa = isa});
    EXPECT_LT(relative_error(run_plain(*cpu), expected), 1e-6) << isa;
  }
}

TEST_F(Precision, Float32IsTheBackendsOwn) {
  const auto packed = base_->pack_linear({w_});
  Tensor y({kRows, kOut});
  base_->norm_linear(rms(), matrix(x_.f32().data(), kRows, kIn), *packed, bias_.f32().data(),
                     Epilogue::store, matrix(y.f32().data(), kRows, kOut));
  const Tensor mine = run({w_}, Epilogue::store);
  EXPECT_TRUE(std::equal(y.f32().begin(), y.f32().end(), mine.f32().begin()));
}

}  // namespace
}  // namespace cortex::testing
