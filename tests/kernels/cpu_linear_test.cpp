#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>
#include <thread>

#include "cpu_cases.h"

namespace cortex {
namespace {

using testing::CpuKernels;
using testing::expect_close;
using testing::tensor_of;

struct Size {
  std::int64_t rows, in, out;
};
const std::vector<Size> kSizes = {{1, 16, 2},     {4, 128, 384}, {5, 96, 70},    {7, 40, 33},
                                  {17, 64, 64},   {6, 512, 192}, {130, 512, 65}, {20, 2048, 130},
                                  {256, 64, 128}, {3, 10, 5}};

/// A linear in a precision, beside the values that it stands for.
struct Weight {
  Tensor packed;
  Tensor scale;
  Tensor plain;
  LinearTensor linear() const { return {packed, scale.empty() ? nullptr : &scale}; }
};

Weight weight_of(const std::vector<float>& values, const Size& size, DType precision) {
  Weight w;
  Tensor plain = tensor_of(values, {size.out, size.in});
  if (precision == DType::f32) {
    w.packed = plain.clone();
  } else if (precision == DType::bf16) {
    w.packed = to_bfloat16(plain);
  } else {
    w.packed = Tensor({size.out, size.in}, DType::i8);
    w.scale = Tensor({size.out});
    for (std::int64_t o = 0; o < size.out; ++o) {
      float top = 1e-9f;
      for (std::int64_t i = 0; i < size.in; ++i)
        top = std::max(top, std::abs(values[static_cast<std::size_t>(o * size.in + i)]));
      w.scale.f32()[static_cast<std::size_t>(o)] = top / 127;
      for (std::int64_t i = 0; i < size.in; ++i)
        w.packed.data()[o * size.in + i] = static_cast<std::byte>(static_cast<std::int8_t>(
            std::lround(values[static_cast<std::size_t>(o * size.in + i)] / top * 127)));
    }
  }
  w.plain = to_float(w.packed, w.scale.empty() ? nullptr : &w.scale);
  return w;
}

std::vector<double> normalized(const NormArgs& norm, const float* x, std::int64_t n) {
  std::vector<double> row(x, x + n);
  if (norm.kind == NormArgs::Kind::none) return row;
  double mean = 0, square = 0;
  if (norm.kind == NormArgs::Kind::layer)
    for (const double v : row) mean += v / static_cast<double>(n);
  for (const double v : row) square += (v - mean) * (v - mean) / static_cast<double>(n);
  for (std::size_t i = 0; i < row.size(); ++i) {
    row[i] = (row[i] - mean) / std::sqrt(square + norm.eps) * norm.gain[i];
    if (norm.bias) row[i] += norm.bias[i];
  }
  return row;
}

/// A row as the precision stores it, in float64.
std::vector<double> stored(std::vector<double> row, DType precision) {
  if (precision == DType::bf16) {
    std::vector<float> narrow(row.begin(), row.end());
    const Tensor t =
        to_float(to_bfloat16(tensor_of(narrow, {static_cast<std::int64_t>(row.size())})));
    return {t.f32().begin(), t.f32().end()};
  }
  if (precision == DType::i8) {
    double top = 0;
    for (const double v : row) top = std::max(top, std::abs(v));
    for (double& v : row) v = top > 0 ? std::nearbyint(v / top * 127) * top / 127 : 0;
  }
  return row;
}

class CpuLinear : public CpuKernels {
 protected:
  void check(const Size& size, DType precision, NormArgs::Kind kind, Epilogue epilogue,
             bool with_bias) {
    const auto ops = make();
    const auto n = static_cast<std::size_t>(size.in);
    auto x = normal(static_cast<std::size_t>(size.rows * size.in));
    const auto gain = normal(n), shift = normal(n);
    const auto bias = normal(static_cast<std::size_t>(size.out));
    const Weight w =
        weight_of(normal(static_cast<std::size_t>(size.out * size.in), 0.05), size, precision);
    const NormArgs norm{kind, gain.data(), kind == NormArgs::Kind::layer ? shift.data() : nullptr,
                        1e-6f};
    auto out = normal(static_cast<std::size_t>(size.rows * size.out));
    std::vector<double> expected(out.begin(), out.end());
    for (std::int64_t m = 0; m < size.rows; ++m) {
      const auto row = stored(normalized(norm, x.data() + m * size.in, size.in), precision);
      for (std::int64_t o = 0; o < size.out; ++o) {
        double y = with_bias ? bias[static_cast<std::size_t>(o)] : 0;
        for (std::int64_t i = 0; i < size.in; ++i)
          y += row[static_cast<std::size_t>(i)] *
               w.plain.f32()[static_cast<std::size_t>(o * size.in + i)];
        double& to = expected[static_cast<std::size_t>(m * size.out + o)];
        to = epilogue == Epilogue::add    ? to + y
             : epilogue == Epilogue::gelu ? 0.5 * y * (1 + std::erf(y / std::sqrt(2.0)))
                                          : y;
      }
    }
    const auto packed = ops->pack_linear(w.linear());
    const ForwardScope scope(*ops);
    ops->norm_linear(norm, matrix(x.data(), size.rows, size.in), *packed,
                     with_bias ? bias.data() : nullptr, epilogue,
                     matrix(out.data(), size.rows, size.out));
    // A value on the edge between two quantised ones may fall on either side: one part in 127 of
    // one product.
    const double tolerance = precision == DType::f32    ? 4e-6
                             : precision == DType::bf16 ? 2e-3
                                                        : 3e-3;
    expect_close(out, expected, tolerance,
                 "rows " + std::to_string(size.rows) + " in " + std::to_string(size.in) + " out " +
                     std::to_string(size.out) + " " + to_string(precision));
  }
};

TEST_P(CpuLinear, EqualsFloat64InEveryPrecisionShapeNormAndEpilogue) {
  for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
    for (const Size& size : kSizes) {
      check(size, precision, NormArgs::Kind::none, Epilogue::store, false);
      check(size, precision, NormArgs::Kind::rms, Epilogue::gelu, false);
      check(size, precision, NormArgs::Kind::layer, Epilogue::add, true);
    }
  }
}

TEST_P(CpuLinear, ARowHasTheSameBitsAloneAndInAnyBatch) {
  for (const auto& [precision, outputs] :
       {std::pair{DType::f32, 200}, std::pair{DType::bf16, 200}, std::pair{DType::i8, 200},
        std::pair{DType::f32, 3}, std::pair{DType::bf16, 3}, std::pair{DType::i8, 3}}) {
    const Size size{150, 320, outputs};
    const auto ops = make();
    auto x = normal(static_cast<std::size_t>(size.rows * size.in));
    const auto gain = normal(static_cast<std::size_t>(size.in));
    const Weight w =
        weight_of(normal(static_cast<std::size_t>(size.out * size.in), 0.05), size, precision);
    const auto packed = ops->pack_linear(w.linear());
    const NormArgs norm{NormArgs::Kind::rms, gain.data(), nullptr, 1e-6f};
    const auto run = [&](std::int64_t first, std::int64_t rows) {
      std::vector<float> out(static_cast<std::size_t>(rows * size.out));
      const ForwardScope scope(*ops);
      ops->norm_linear(norm, matrix(x.data() + first * size.in, rows, size.in), *packed, nullptr,
                       Epilogue::gelu, matrix(out.data(), rows, size.out));
      return out;
    };
    const auto whole = run(0, size.rows);
    for (const std::int64_t rows : {1, 3, 6, 7, 16, 17, 140}) {
      const auto part = run(5, rows);
      ASSERT_EQ(0,
                std::memcmp(part.data(), whole.data() + 5 * size.out, part.size() * sizeof(float)))
          << rows << " rows of " << to_string(precision);
    }
  }
}

TEST_P(CpuLinear, GeluOfNarrowWeightsIsExactTo5e5) {
  const auto ops = make();
  std::vector<float> x = {-1000, -100, 100, 1000};
  for (int i = -2048; i <= 2048; ++i) x.push_back(static_cast<float>(i) / 128);
  const auto rows = static_cast<std::int64_t>(x.size());
  const Tensor held = to_float(to_bfloat16(tensor_of(x, {rows})));
  x.assign(held.f32().begin(), held.f32().end());
  for (const std::int64_t outputs : {1, 40}) {  // as a dot product, and in a panel
    const Weight one = weight_of(std::vector<float>(static_cast<std::size_t>(outputs), 1.0f),
                                 {rows, 1, outputs}, DType::bf16);
    std::vector<float> out(static_cast<std::size_t>(rows * outputs));
    ops->norm_linear({}, matrix(x.data(), rows, 1), *ops->pack_linear(one.linear()), nullptr,
                     Epilogue::gelu, matrix(out.data(), rows, outputs));
    for (std::size_t i = 0; i < out.size(); ++i) {
      const double v = x[i / static_cast<std::size_t>(outputs)];
      const double exact = 0.5 * v * std::erfc(-v / std::sqrt(2.0));
      ASSERT_NEAR(out[i], exact, 5e-5 + 2e-6 * std::abs(v)) << "of " << v;
    }
  }
}

TEST_P(CpuLinear, ARowOfZerosIsZeroInEveryPrecision) {
  for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
    const auto ops = make();
    const Size size{2, 64, 8};
    const Weight w = weight_of(normal(512, 0.05), size, precision);
    std::vector<float> x(128, 0.0f), out(16, 9.0f);
    ops->norm_linear({}, matrix(x.data(), 2, 64), *ops->pack_linear(w.linear()), nullptr,
                     Epilogue::store, matrix(out.data(), 2, 8));
    EXPECT_EQ(out, std::vector<float>(16, 0.0f));
  }
}

TEST_P(CpuLinear, HelpersSleepAfterACallOutsideAForward) {
  const auto ops = make_cpu_ops({.threads = 2, .isa = GetParam().isa});
  const Size size{64, 256, 256};
  const Weight w = weight_of(normal(256 * 256, 0.05), size, DType::f32);
  auto x = normal(64 * 256);
  std::vector<float> out(64 * 256);
  ops->norm_linear({}, matrix(x.data(), 64, 256), *ops->pack_linear(w.linear()), nullptr,
                   Epilogue::store, matrix(out.data(), 64, 256));
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC, 0.05)
      << "of this process's time while it slept";
}

TEST_P(CpuLinear, IntegersAreSummedExactly) {
  // The longest sums of the largest values: any saturation or float on the way would show.
  const auto ops = make();
  const Size size{2, 4096, 3};
  Weight w;
  w.packed = Tensor({size.out, size.in}, DType::i8);
  w.scale = tensor_of({1, 1, 1}, {3});
  for (std::int64_t i = 0; i < size.in; ++i) {
    w.packed.data()[i] = static_cast<std::byte>(static_cast<std::int8_t>(127));
    w.packed.data()[size.in + i] = static_cast<std::byte>(static_cast<std::int8_t>(-127));
    w.packed.data()[2 * size.in + i] =
        static_cast<std::byte>(static_cast<std::int8_t>(i % 2 ? 127 : -127));
  }
  std::vector<float> x(static_cast<std::size_t>(2 * size.in), 127.0f), out(6);
  for (std::size_t i = 0; i < static_cast<std::size_t>(size.in); ++i) x[i] = -127;
  x[1] = 127;
  ops->norm_linear({}, matrix(x.data(), 2, size.in), *ops->pack_linear(w.linear()), nullptr,
                   Epilogue::store, matrix(out.data(), 2, 3));
  const float all = 127.0f * 127 * 4096, one = 127.0f * 127;
  EXPECT_EQ(out, (std::vector<float>{-all + 2 * one, all - 2 * one, 2 * one, all, -all, 0}));
}

TEST_P(CpuLinear, NormalizeEqualsFloat64) {
  const auto ops = make();
  for (const std::int64_t n : {16, 37, 512}) {
    const auto gain = normal(static_cast<std::size_t>(n)), bias = normal(gain.size());
    auto x = normal(static_cast<std::size_t>(3 * n));
    for (const auto kind : {NormArgs::Kind::rms, NormArgs::Kind::layer}) {
      const NormArgs norm{kind, gain.data(), kind == NormArgs::Kind::layer ? bias.data() : nullptr,
                          1e-5f};
      std::vector<float> out(x.size());
      ops->normalize(norm, matrix(x.data(), 3, n), matrix(out.data(), 3, n));
      std::vector<double> expected;
      for (int m = 0; m < 3; ++m)
        for (const double v : normalized(norm, x.data() + m * n, n)) expected.push_back(v);
      expect_close(out, expected, 1e-6, "normalize");
    }
  }
}

TEST(CpuIsas, AnInstructionSetThatIsNotThereIsRefused) {
  EXPECT_THROW(make_cpu_ops({.isa = "avx10"}), std::invalid_argument);
  EXPECT_EQ(cpu_isas().back(), "scalar");
}

INSTANTIATE_TEST_SUITE_P(Isas, CpuLinear, ::testing::ValuesIn(testing::cpu_cases()),
                         testing::name_of);

}  // namespace
}  // namespace cortex
