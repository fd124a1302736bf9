#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/gemm_sm90.h"

/// Every tiling that a table may choose, against sums on the host. Factors are small whole numbers:
/// all sums are exact, in any order. Skipped, with a line that says so, where there is no Hopper
/// GPU.
namespace cortex::cuda {
namespace {

constexpr float kFactor = 0.0625F;

float from_bf16(std::uint16_t bits) {
  const std::uint32_t wide = std::uint32_t{bits} << 16;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}
std::uint16_t to_bf16(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
double from_e4m3(std::uint8_t bits) {
  const int exponent = bits >> 3 & 15, fraction = bits & 7;
  const double size =
      exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
  return bits & 0x80 ? -size : size;
}
double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }

class Tilings : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto devices = cuda_devices();
    if (devices.empty() || !gemm_sm90_supported(devices.front().index))
      GTEST_SKIP() << "no Hopper GPU: its tilings were not tried";
    ops_ = make_cuda_ops(devices.front().index);
  }

  template <class T>
  Buffer put(const std::vector<T>& values) {
    Buffer there = ops_->allocate(values.size() * sizeof(T));
    ops_->upload(there, values.data(), values.size() * sizeof(T));
    return there;
  }
  template <class T>
  std::vector<T> get(const Buffer& from) {
    std::vector<T> values(from.bytes() / sizeof(T));
    ops_->download(values.data(), from.f32(), from.bytes());
    return values;
  }
  std::vector<int> whole(std::int64_t count) {
    std::vector<int> v(static_cast<std::size_t>(count));
    for (int& x : v) x = std::uniform_int_distribution<int>(-2, 2)(random_);
    return v;
  }
  Buffer put_as(GemmType type, const std::vector<int>& values) {
    std::vector<std::uint16_t> wide;
    std::vector<std::uint8_t> bytes;
    constexpr std::uint8_t kE4m3[] = {0xc0, 0xb8, 0x00, 0x38, 0x40};  // of -2 to 2
    for (const int x : values) {
      if (type == GemmType::kBf16) wide.push_back(to_bf16(static_cast<float>(x)));
      if (type == GemmType::kInt8) bytes.push_back(static_cast<std::uint8_t>(x));
      if (type == GemmType::kE4m3) bytes.push_back(kE4m3[x + 2]);
    }
    return type == GemmType::kBf16 ? put(wide) : put(bytes);
  }

  void check_all(const GemmTableEntry& shape) {
    const int m = shape.m, n = shape.n, k = shape.k;
    const auto a = whole(std::int64_t{m} * k), w = whole(std::int64_t{n} * k),
               z = whole(std::int64_t{m} * n);
    std::vector<float> x(z.size()), before(z.size());
    std::vector<std::uint16_t> before_narrow(z.size());
    std::vector<float> squares(z.size() / 64), w_scale(static_cast<std::size_t>(n), 1.0F);
    for (std::size_t j = 0; shape.type != GemmType::kBf16 && j < w_scale.size(); ++j)
      w_scale[j] = std::ldexp(1.0F, static_cast<int>(j % 3) - 1);
    for (int i = 0; i < m; ++i) {
      for (int j = 0; j < n; ++j) {
        const auto at = static_cast<std::size_t>(i) * n + j;
        const int* const row = &a[static_cast<std::size_t>(i) * k];
        const int* const column = &w[static_cast<std::size_t>(j) * k];
        int sum = 0;
        for (int c = 0; c < k; ++c) sum += row[c] * column[c];
        x[at] = kFactor * w_scale[static_cast<std::size_t>(j)] * static_cast<float>(sum);
        before[at] = static_cast<float>(z[at]);
        before_narrow[at] = to_bf16(before[at]);
        squares[at / 64] += before[at] * before[at];
      }
    }
    const Buffer a_there = put_as(shape.type, a), w_there = put_as(shape.type, w);
    const Buffer squares_there = put(squares), w_scale_there = put(w_scale);
    const bool sums =
        shape.epilogue == GemmEpilogue::kAdd || shape.epilogue == GemmEpilogue::kAddNarrow;
    const bool both = shape.epilogue == GemmEpilogue::kAddNarrow && shape.type == GemmType::kE4m3;
    for (const GemmTableEntry& e : candidates(shape)) {
      SCOPED_TRACE(std::string(name_of(e.type)) + " " + name_of(e.epilogue) + " " +
                   name_of(e.config) + " split " + std::to_string(e.split));
      // NaN, where a kernel leaves anything out.
      const Buffer out = put(std::vector<std::uint16_t>(z.size(), 0xffff));
      const Buffer z_there = put(before), narrow = put(before_narrow);
      const Buffer square_out = put(std::vector<float>(squares.size(), NAN));
      const Buffer narrow8 = put(std::vector<std::uint8_t>(z.size(), 0xff));
      const Buffer row_scale = put(std::vector<float>(static_cast<std::size_t>(m), NAN));
      GemmSm90Args g;
      g.type = e.type;
      g.m = m;
      g.n = n;
      g.k = k;
      g.a = a_there.as<void>();
      g.w = w_there.as<void>();
      g.lda = k;
      g.ldo = g.ldz = g.ld_narrow = g.ld_narrow8 = n;
      g.a_factor = kFactor;
      if (e.type != GemmType::kBf16) g.w_scale = w_scale_there.f32();
      g.out = out.as<__nv_bfloat16>();
      g.z = z_there.f32();
      g.narrow = narrow.as<__nv_bfloat16>();
      g.square_out = square_out.f32();
      if (both || e.epilogue == GemmEpilogue::kGeluE4m3) g.narrow8 = narrow8.as<std::uint8_t>();
      if (both) {
        g.square = squares_there.f32();
        g.square_parts = n / 64;
        g.narrow8_row_scale = row_scale.f32();
      }
      g.config = e.config;
      g.split = e.split;
      ASSERT_EQ(gemm_sm90(g, e.epilogue, nullptr), cudaSuccess);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      const auto results = get<std::uint16_t>(sums ? narrow : out);
      const auto eighths = get<std::uint8_t>(narrow8);
      const auto scales = get<float>(row_scale), sum_squares = get<float>(square_out);
      std::vector<double> expected_squares(squares.size());
      for (std::size_t i = 0; i < x.size(); ++i) {
        const float total = sums ? x[i] + before[i] : x[i];
        expected_squares[i / 64] += static_cast<double>(total) * total;
        if (e.epilogue == GemmEpilogue::kGelu) {
          const double want = gelu(total);
          // The hardware's tanh and a fit of two coefficients, or ten operations.
          const bool fast = is_wide(e.config) || e.config == kResident128x128;
          const double fit = fast ? 4e-4 : 1e-4;
          ASSERT_NEAR(from_bf16(results[i]), want, 0x1p-8 * std::abs(want) + fit) << i;
        } else if (e.epilogue == GemmEpilogue::kGeluE4m3) {
          const double want = gelu(total);
          ASSERT_NEAR(from_e4m3(eighths[i]), want, 0x1p-4 * std::abs(want) + 0x1p-9) << i;
        } else {
          ASSERT_EQ(from_bf16(results[i]), from_bf16(to_bf16(total))) << i;
        }
        if (both) {
          const double scale = scales[i / static_cast<std::size_t>(n)];
          ASSERT_NEAR(from_e4m3(eighths[i]) * scale, total,
                      0x1p-3 * std::abs(total) + scale * 0x1p-9)
              << i;
        }
      }
      if (e.epilogue == GemmEpilogue::kAdd) {
        const auto added = get<float>(z_there);
        for (std::size_t i = 0; i < x.size(); ++i) ASSERT_EQ(added[i], x[i] + before[i]) << i;
      }
      for (std::size_t i = 0; sums && i < squares.size(); ++i)
        ASSERT_NEAR(sum_squares[i], expected_squares[i], 1e-2 * expected_squares[i]) << i;
    }
  }

  std::unique_ptr<Ops> ops_;
  std::mt19937_64 random_{7};
};

TEST_F(Tilings, AllOfThemComputeTheSame) {
  for (const GemmType type : {GemmType::kBf16, GemmType::kE4m3, GemmType::kInt8}) {
    for (const GemmEpilogue epilogue :
         {GemmEpilogue::kStore, GemmEpilogue::kGelu, GemmEpilogue::kAdd, GemmEpilogue::kAddNarrow,
          GemmEpilogue::kGeluE4m3}) {
      if (epilogue == GemmEpilogue::kGeluE4m3 && type != GemmType::kE4m3) continue;
      check_all({type, epilogue, 200, 256, 1024});  // ends within a tile
      check_all({type, epilogue, 384, 768, 256});
      check_all({type, epilogue, 4300, 1024, 128});  // several tiles a block
    }
  }
}

}  // namespace
}  // namespace cortex::cuda
