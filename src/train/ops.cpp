#include "train/ops.h"

#include <cmath>
#include <limits>
#include <vector>

namespace cortex::train {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

constexpr double kEps = 1e-6;
constexpr std::int64_t kRowBlock = 64;

bool has_loops(const Tensor& t) {
  return t.device().is_cpu() &&
         (t.scalar_type() == torch::kFloat32 || t.scalar_type() == torch::kFloat64);
}

std::int64_t blocks_of(std::int64_t rows) { return (rows + kRowBlock - 1) / kRowBlock; }

template <class T>
void norm_forward(const T* x, const T* gain, T* y, T* rstd, std::int64_t rows, std::int64_t d) {
  for (std::int64_t r = 0; r < rows; ++r, x += d, y += d) {
    T sum = 0;
#pragma GCC ivdep
    for (std::int64_t i = 0; i < d; ++i) sum += x[i] * x[i];
    const T s = T(1) / std::sqrt(sum / T(d) + T(kEps));
    rstd[r] = s;
    for (std::int64_t i = 0; i < d; ++i) y[i] = x[i] * s * gain[i];
  }
}

template <class T>
void norm_backward(const T* x, const T* gain, const T* rstd, const T* dy, T* dx, T* dgain,
                   std::int64_t rows, std::int64_t d) {
  for (std::int64_t r = 0; r < rows; ++r, x += d, dy += d, dx += d) {
    const T s = rstd[r];
    T dot = 0;
    for (std::int64_t i = 0; i < d; ++i) dot += gain[i] * dy[i] * x[i];
    const T pull = s * s * s * dot / T(d);
    for (std::int64_t i = 0; i < d; ++i) {
      dx[i] = s * gain[i] * dy[i] - pull * x[i];
      dgain[i] += dy[i] * x[i] * s;
    }
  }
}

struct RmsNorm : torch::autograd::Function<RmsNorm> {
  static Tensor forward(AutogradContext* ctx, Tensor x, Tensor gain) {
    x = x.contiguous();
    gain = gain.contiguous();
    const std::int64_t d = x.size(-1);
    const std::int64_t rows = x.numel() / d;
    Tensor y = torch::empty_like(x);
    Tensor rstd = torch::empty({rows}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm", [&] {
      const auto* xp = x.data_ptr<scalar_t>();
      at::parallel_for(0, blocks_of(rows), 1, [&](std::int64_t b, std::int64_t e) {
        const std::int64_t first = b * kRowBlock;
        const std::int64_t n = std::min(e * kRowBlock, rows) - first;
        norm_forward(xp + first * d, gain.data_ptr<scalar_t>(), y.data_ptr<scalar_t>() + first * d,
                     rstd.data_ptr<scalar_t>() + first, n, d);
      });
    });
    ctx->save_for_backward({x, gain, rstd});
    return y;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor& x = saved[0];
    const Tensor dy = grads[0].contiguous();
    const std::int64_t d = x.size(-1);
    const std::int64_t rows = x.numel() / d;
    const std::int64_t blocks = blocks_of(rows);
    Tensor dx = torch::empty_like(x);
    // One partial sum a block of rows: the order of the reduction never depends on the threads.
    Tensor partial = torch::zeros({blocks, d}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm_backward", [&] {
      at::parallel_for(0, blocks, 1, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t k = b; k < e; ++k) {
          const std::int64_t first = k * kRowBlock;
          const std::int64_t n = std::min(first + kRowBlock, rows) - first;
          norm_backward(x.data_ptr<scalar_t>() + first * d, saved[1].data_ptr<scalar_t>(),
                        saved[2].data_ptr<scalar_t>() + first, dy.data_ptr<scalar_t>() + first * d,
                        dx.data_ptr<scalar_t>() + first * d, partial.data_ptr<scalar_t>() + k * d,
                        n, d);
        }
      });
    });
    return {dx, partial.sum(0)};
  }
};

template <class T>
void rotate_rows(const T* x, const T* cosines, const T* sines, T* y, std::int64_t rows,
                 std::int64_t groups, std::int64_t half, T sign) {
  for (std::int64_t r = 0; r < rows; ++r) {
    const T* c = cosines + r * half;
    const T* s = sines + r * half;
    for (std::int64_t g = 0; g < groups; ++g, x += 2 * half, y += 2 * half)
      for (std::int64_t i = 0; i < half; ++i) {
        const T a = x[i];
        const T b = x[i + half];
        const T turn = sign * s[i];
        y[i] = a * c[i] - b * turn;
        y[i + half] = b * c[i] + a * turn;
      }
  }
}

Tensor rotate_loops(const Tensor& given, const Tensor& cosines, const Tensor& sines, double sign) {
  const Tensor x = given.contiguous();
  Tensor y = torch::empty_like(x);
  const std::int64_t steps = x.size(1);
  const std::int64_t groups = x.size(2);
  const std::int64_t width = x.size(3);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rotate", [&] {
    at::parallel_for(0, x.size(0), 1, [&](std::int64_t b, std::int64_t e) {
      for (std::int64_t n = b; n < e; ++n)
        rotate_rows(x.data_ptr<scalar_t>() + n * steps * groups * width,
                    cosines.data_ptr<scalar_t>(), sines.data_ptr<scalar_t>(),
                    y.data_ptr<scalar_t>() + n * steps * groups * width, steps, groups, width / 2,
                    static_cast<scalar_t>(sign));
    });
  });
  return y;
}

struct Rotate : torch::autograd::Function<Rotate> {
  static Tensor forward(AutogradContext* ctx, Tensor x, Tensor cosines, Tensor sines) {
    ctx->save_for_backward({cosines, sines});
    return rotate_loops(x, cosines, sines, 1);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {rotate_loops(grads[0], saved[0], saved[1], -1), Tensor(), Tensor()};
  }
};

thread_local bool bf16_products = false;

}  // namespace

Bf16Products::Bf16Products(bool on) : before_(bf16_products) { bf16_products = on; }
Bf16Products::~Bf16Products() { bf16_products = before_; }

Tensor project(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  if (!bf16_products) return torch::linear(x, weight, bias);
  const Tensor y =
      torch::linear(x.to(torch::kBFloat16), weight.to(torch::kBFloat16)).to(x.scalar_type());
  return bias.defined() ? y + bias : y;
}

Tensor product(const Tensor& a, const Tensor& b) {
  if (!bf16_products) return torch::matmul(a, b);
  return torch::matmul(a.to(torch::kBFloat16), b.to(torch::kBFloat16)).to(a.scalar_type());
}

Tensor rms_norm(const Tensor& x, const Tensor& gain) {
  if (has_loops(x)) return RmsNorm::apply(x, gain);
  return x * torch::rsqrt(x.pow(2).mean(-1, true) + kEps) * gain;
}

Tensor rotate(const Tensor& x, const Tensor& cosines, const Tensor& sines) {
  if (has_loops(x)) return Rotate::apply(x, cosines, sines);
  const std::int64_t half = x.size(-1) / 2;
  const Tensor a = x.narrow(-1, 0, half);
  const Tensor b = x.narrow(-1, half, half);
  const Tensor c = cosines.unsqueeze(1);
  const Tensor s = sines.unsqueeze(1);
  return torch::cat({a * c - b * s, b * c + a * s}, -1);
}

}  // namespace cortex::train
