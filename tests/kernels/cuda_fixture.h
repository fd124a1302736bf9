#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_ops.h"

namespace cortex::testing {

constexpr double kFloatTolerance = 1e-5;  // of the largest element
constexpr double kBf16Tolerance = 1e-2;   // two roundings to 8 bits, one of them of the result
constexpr double kInt8Tolerance = 5e-3;   // a tie rounded the other way

/// Whether tests are to take fewer sizes and shorter windows: under a tool that makes each access a
/// hundred times as slow.
constexpr int kBriefWindow = 9;  // steps, more than a page of 8
inline bool brief() {
  const char* const wanted = std::getenv("CORTEX_BRIEF");
  return wanted && *wanted;
}

/// Operations of the CUDA backend on the first GPU, on poisoned outputs.
class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override { set_up({}); }
  void set_up(const CudaOptions& options) {
    if (cuda_devices().empty()) GTEST_SKIP() << "no GPU: the CUDA kernels were not run";
    ops_ = make_cuda_ops(cuda_devices().front().index, options);
  }

  std::vector<float> normal(std::size_t n, double scale = 1) {
    std::normal_distribution<double> draw(0, scale);
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(draw(random_));
    return v;
  }
  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }

  /// Device memory that lives as long as the test.
  template <class T>
  T* put(const std::vector<T>& values) {
    memory_.push_back(ops_->allocate(std::max<std::size_t>(values.size() * sizeof(T), 1)));
    ops_->upload(memory_.back(), values.data(), values.size() * sizeof(T));
    return memory_.back().as<T>();
  }
  /// A matrix on the device, in `dtype`; `values` become what it holds.
  MatrixView put_matrix(std::vector<float>& values, std::int64_t rows, std::int64_t cols,
                        DType dtype) {
    if (dtype == DType::f32) return matrix(put(values), rows, cols);
    Tensor t({rows, cols});
    std::copy(values.begin(), values.end(), t.f32().begin());
    const Tensor narrow = to_bfloat16(t);
    const Tensor back = to_float(narrow);
    std::copy(back.f32().begin(), back.f32().end(), values.begin());
    const auto* const bits = reinterpret_cast<const std::uint16_t*>(narrow.data());
    return matrix(
        reinterpret_cast<float*>(put(std::vector<std::uint16_t>(bits, bits + narrow.count()))),
        rows, cols, DType::bf16);
  }
  MatrixView poisoned(std::int64_t rows, std::int64_t cols, DType dtype) {
    std::vector<float> nans(static_cast<std::size_t>(rows * cols),
                            std::numeric_limits<float>::quiet_NaN());
    return put_matrix(nans, rows, cols, dtype);
  }
  std::vector<float> get(const MatrixView& m) {
    const auto n = static_cast<std::size_t>(m.rows * m.cols);
    std::vector<float> values(n);
    if (m.dtype == DType::f32) {
      ops_->download(values.data(), m.data, n * sizeof(float));
      return values;
    }
    std::vector<float> words((n + 1) / 2);
    ops_->download(words.data(), m.data, n * 2);
    const auto* const bits = reinterpret_cast<const std::uint16_t*>(words.data());
    for (std::size_t i = 0; i < n; ++i) values[i] = from_bfloat16(bits[i]);
    return values;
  }
  static void expect_close(const std::vector<float>& actual, const std::vector<float>& expected,
                           double tolerance, const std::string& what) {
    ASSERT_EQ(actual.size(), expected.size()) << what;
    double largest = 1e-30;
    for (const float x : expected) largest = std::max<double>(largest, std::abs(x));
    double worst = 0;
    for (std::size_t i = 0; i < actual.size(); ++i) {
      const double error = std::abs(actual[i] - expected[i]) / largest;
      ASSERT_LE(error, tolerance) << what << ", element " << i << ": " << actual[i] << " for "
                                  << expected[i];
      worst = std::max(worst, error);
    }
    RecordProperty(what, std::to_string(worst));
  }
  static double tolerance_of(DType dtype) {
    return dtype == DType::f32 ? kFloatTolerance : kBf16Tolerance;
  }

  std::unique_ptr<Ops> ops_;
  std::vector<Buffer> memory_;
  std::mt19937_64 random_{7};
};

inline Tensor tensor_of(const std::vector<float>& values, Shape shape) {
  Tensor t(std::move(shape));
  std::copy(values.begin(), values.end(), t.f32().begin());
  return t;
}

}  // namespace cortex::testing
