#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_ops.h"

namespace cortex::testing {

/// Every instruction set that this machine runs, alone and on two threads.
struct CpuCase {
  std::string isa;
  int threads = 1;
};
inline std::vector<CpuCase> cpu_cases() {
  std::vector<CpuCase> cases;
  for (const std::string& isa : cpu_isas())
    for (const int threads : {1, 2}) cases.push_back({isa, threads});
  return cases;
}
inline std::string name_of(const ::testing::TestParamInfo<CpuCase>& info) {
  return info.param.isa + "_" + std::to_string(info.param.threads);
}

class CpuKernels : public ::testing::TestWithParam<CpuCase> {
 protected:
  std::unique_ptr<Ops> make() const {
    return make_cpu_ops({.threads = GetParam().threads, .isa = GetParam().isa});
  }
  std::vector<float> normal(std::size_t n, double scale = 1) {
    std::normal_distribution<double> draw(0, scale);
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(draw(random_));
    return v;
  }
  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }
  std::mt19937_64 random_{7};
};

inline Tensor tensor_of(const std::vector<float>& values, Shape shape) {
  Tensor t(std::move(shape));
  std::copy(values.begin(), values.end(), t.f32().begin());
  return t;
}

/// Elements differ by at most `tolerance` times the largest magnitude of what is expected.
inline void expect_close(const std::vector<float>& actual, const std::vector<double>& expected,
                         double tolerance, const std::string& what) {
  ASSERT_EQ(actual.size(), expected.size()) << what;
  double largest = 1e-30;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < actual.size(); ++i)
    ASSERT_LE(std::abs(actual[i] - expected[i]), tolerance * largest)
        << what << ", element " << i << ": " << actual[i] << " for " << expected[i];
}

}  // namespace cortex::testing
