#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/gemm_sm90.h"

/// A transformer block's linears in 8-bit floats against float64. Skipped, with a line that says
/// so, where there is no Hopper GPU.
namespace cortex {
namespace {

// e4m3 keeps 3 bits of a fraction: an element is off by 2.5% (root mean square), a sum of many
// less.
constexpr double kRelative = 4e-2;

struct Rows {
  std::int64_t rows = 0, cols = 0;
  std::vector<double> v;
  double* operator[](std::int64_t r) { return v.data() + r * cols; }
  const double* operator[](std::int64_t r) const { return v.data() + r * cols; }
};

class Fp8 : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto devices = cuda_devices();
    if (devices.empty() || !cuda::gemm_sm90_supported(devices.front().index))
      GTEST_SKIP() << "no Hopper GPU: 8-bit floats were not tried";
    ops_ = make_cuda_ops(devices.front().index, {.fp8 = true});
    OpsCapacity most;
    most.rows = 2048;
    most.inputs = 2048;
    ops_->reserve(most);
  }

  Rows normal(std::int64_t rows, std::int64_t cols, double scale) {
    std::normal_distribution<double> draw(0, scale);
    Rows r{rows, cols, std::vector<double>(static_cast<std::size_t>(rows * cols))};
    for (double& x : r.v) x = static_cast<float>(draw(random_));
    return r;
  }
  static Tensor tensor(const Rows& r) {
    Tensor t({r.rows, r.cols});
    for (std::size_t i = 0; i < r.v.size(); ++i) t.f32()[i] = static_cast<float>(r.v[i]);
    return t;
  }
  /// Rounds `r` to bf16, as the device has it.
  MatrixView put(Rows& r) {
    const Tensor narrow = to_bfloat16(tensor(r));
    const Tensor back = to_float(narrow);
    for (std::size_t i = 0; i < r.v.size(); ++i) r.v[i] = back.f32()[i];
    memory_.push_back(ops_->allocate(narrow.bytes()));
    ops_->upload(memory_.back(), narrow.data(), narrow.bytes());
    return matrix(memory_.back().f32(), r.rows, r.cols, DType::bf16);
  }
  MatrixView room(std::int64_t rows, std::int64_t cols) {
    Rows nans{rows, cols, std::vector<double>(static_cast<std::size_t>(rows * cols), NAN)};
    return put(nans);
  }
  void expect_close(const MatrixView& got, const Rows& want, double tolerance, const char* what) {
    std::vector<std::uint16_t> bits(want.v.size());
    ops_->download(bits.data(), got.data, bits.size() * 2);
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < bits.size(); ++i) {
      const double x = from_bfloat16(bits[i]);
      difference += (x - want.v[i]) * (x - want.v[i]);
      size += want.v[i] * want.v[i];
    }
    const double error = std::sqrt(difference / size);
    EXPECT_LT(error, tolerance) << what << " of " << want.rows << " rows";
    RecordProperty(std::string(what) + std::to_string(want.rows), std::to_string(error));
  }

  std::unique_ptr<Ops> ops_;
  std::vector<Buffer> memory_;
  std::mt19937_64 random_{3};
};

Rows product(const Rows& x, const Rows& w) {
  Rows y{x.rows, w.rows, std::vector<double>(static_cast<std::size_t>(x.rows * w.rows))};
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t o = 0; o < w.rows; ++o) {
      double sum = 0;
      for (std::int64_t i = 0; i < x.cols; ++i) sum += x[r][i] * w[o][i];
      y[r][o] = sum;
    }
  return y;
}

Rows rms_normed(const Rows& x, const std::vector<float>& gain, double eps) {
  Rows y = x;
  for (std::int64_t r = 0; r < x.rows; ++r) {
    double square = 0;
    for (std::int64_t i = 0; i < x.cols; ++i) square += x[r][i] * x[r][i];
    const double rstd = 1 / std::sqrt(square / static_cast<double>(x.cols) + eps);
    for (std::int64_t i = 0; i < x.cols; ++i)
      y[r][i] = x[r][i] * rstd * gain[static_cast<std::size_t>(i)];
  }
  return y;
}

void add(Rows& z, const Rows& x) {
  for (std::size_t i = 0; i < z.v.size(); ++i) z.v[i] += x.v[i];
}

TEST_F(Fp8, ABlocksLinearsAreCloseToFloat64AtEverySizeOfBatch) {
  const std::int64_t dim = 512, hidden = 2048;
  const float eps = 1e-6F;
  const Rows w_out = normal(dim, dim, 0.04), w_qkv = normal(3 * dim, dim, 0.04),
             w_up = normal(hidden, dim, 0.04), w_down = normal(dim, hidden, 0.03);
  Tensor gain({dim});
  for (float& g : gain.f32()) g = std::uniform_real_distribution<float>(0.5F, 1.5F)(random_);
  const std::vector<float> gains(gain.f32().begin(), gain.f32().end());
  const Tensor out = tensor(w_out), qkv = tensor(w_qkv), up = tensor(w_up), down = tensor(w_down);
  const auto out_there = ops_->pack_linear({out, nullptr, nullptr, true, false}),
             qkv_there = ops_->pack_linear({qkv, nullptr, &gain, true, true}),
             up_there = ops_->pack_linear({up, nullptr, &gain, true, true}),
             down_there = ops_->pack_linear({down, nullptr, nullptr, true, true});
  memory_.push_back(ops_->allocate(gain.bytes()));
  ops_->upload(memory_.back(), gain.data(), gain.bytes());
  const NormArgs norm{NormArgs::Kind::rms, memory_.back().f32(), nullptr, eps};
  ASSERT_EQ(ops_->residual_dtype(DType::f32, dim), DType::bf16);
  for (const std::int64_t m : {70, 256, 600}) {
    // Rows from large to small, so that each needs a power of two of its own.
    Rows z = normal(m, dim, 1), x = normal(m, dim, 1);
    for (std::int64_t r = 0; r < m; ++r)
      for (std::int64_t i = 0; i < dim; ++i) {
        const double scale = std::exp2(static_cast<double>(r % 13) - 8);
        z[r][i] *= scale;
        x[r][i] *= scale;
      }
    const MatrixView z_there = put(z), x_there = put(x), qkv_out = room(m, 3 * dim),
                     hidden_out = room(m, hidden);

    ops_->norm_linear({}, x_there, *out_there, nullptr, Epilogue::add, z_there);
    add(z, product(x, w_out));
    expect_close(z_there, z, 5e-3, "out");

    const Rows normed = rms_normed(z, gains, eps);
    ops_->norm_linear(norm, z_there, *qkv_there, nullptr, Epilogue::store, qkv_out);
    expect_close(qkv_out, product(normed, w_qkv), kRelative, "qkv");

    ops_->norm_linear(norm, z_there, *up_there, nullptr, Epilogue::gelu, hidden_out);
    Rows h = product(normed, w_up);
    for (double& v : h.v) v *= 0.5 * (1 + std::erf(v / std::sqrt(2.0)));
    ops_->norm_linear({}, hidden_out, *down_there, nullptr, Epilogue::add, z_there);
    add(z, product(h, w_down));
    expect_close(z_there, z, kRelative, "down");

    // The sums that the last epilogue left behind in 8 bits.
    ops_->norm_linear(norm, z_there, *qkv_there, nullptr, Epilogue::store, qkv_out);
    expect_close(qkv_out, product(rms_normed(z, gains, eps), w_qkv), 1.5 * kRelative, "next qkv");
  }
}

TEST_F(Fp8, ALinearOfOtherShapesIsAnErrorAndNotAWrongNumber) {
  const Tensor odd = tensor(normal(40, 40, 1));
  const auto packed = ops_->pack_linear({odd, nullptr, nullptr, true, true});
  Rows x = normal(4, 40, 1);
  const MatrixView there = put(x), y = room(4, 40);
  EXPECT_THROW(ops_->norm_linear({}, there, *packed, nullptr, Epilogue::store, y),
               std::logic_error);
}

}  // namespace
}  // namespace cortex
