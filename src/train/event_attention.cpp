#include <cmath>
#include <vector>

#include "train/ops.h"

namespace cortex::train {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

struct Extent {
  std::int64_t rows = 0;   // R * H
  std::int64_t heads = 0;  // H
  std::int64_t width = 0;  // head_dim
  std::int64_t dim() const { return heads * width; }
  std::int64_t out() const { return rows * width; }
};

template <class T>
void attend_step(const Extent& x, const T* scores, const T* null_scores, const T* values,
                 const T* null_value, const std::int64_t* slot, const std::int64_t* token,
                 std::int64_t pairs, T* weight, T* null_weight, T* out) {
  for (std::int64_t q = 0; q < x.rows; ++q) {
    T top = null_scores[q];
    for (std::int64_t p = 0; p < pairs; ++p) top = std::max(top, scores[slot[p] * x.rows + q]);
    T sum = null_weight[q] = std::exp(null_scores[q] - top);
    for (std::int64_t p = 0; p < pairs; ++p)
      sum += weight[p * x.rows + q] = std::exp(scores[slot[p] * x.rows + q] - top);
    const T scale = T(1) / sum;
    null_weight[q] *= scale;
    for (std::int64_t p = 0; p < pairs; ++p) weight[p * x.rows + q] *= scale;
    const std::int64_t h = q % x.heads;
    for (std::int64_t i = 0; i < x.width; ++i)
      out[q * x.width + i] = null_weight[q] * null_value[h * x.width + i];
  }
  for (std::int64_t p = 0; p < pairs; ++p)
    for (std::int64_t q = 0; q < x.rows; ++q) {
      const T w = weight[p * x.rows + q];
      const T* v = values + token[p] * x.dim() + (q % x.heads) * x.width;
      T* o = out + q * x.width;
      for (std::int64_t i = 0; i < x.width; ++i) o[i] += w * v[i];
    }
}

template <class T>
T dot(const T* a, const T* b, std::int64_t n) {
  T lanes[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int l = 0; l < 8; ++l) lanes[l] += a[i + l] * b[i + l];
  T sum = 0;
  for (; i < n; ++i) sum += a[i] * b[i];
  for (const T l : lanes) sum += l;
  return sum;
}

/// Gradient of the scores of one step, from the gradient of its output.
template <class T>
void backward_step(const Extent& x, const T* values, const T* null_value, const std::int64_t* token,
                   std::int64_t pairs, const T* weight, const T* null_weight, const T* dout,
                   T* dscore, T* dnull) {
  std::vector<T> mean(static_cast<std::size_t>(x.rows));
  for (std::int64_t q = 0; q < x.rows; ++q) {
    dnull[q] = dot(dout + q * x.width, null_value + (q % x.heads) * x.width, x.width);
    mean[q] = dnull[q] * null_weight[q];
  }
  for (std::int64_t p = 0; p < pairs; ++p)
    for (std::int64_t q = 0; q < x.rows; ++q) {
      const T* v = values + token[p] * x.dim() + (q % x.heads) * x.width;
      const T g = dot(dout + q * x.width, v, x.width);
      dscore[p * x.rows + q] = g;
      mean[q] += g * weight[p * x.rows + q];
    }
  for (std::int64_t p = 0; p < pairs; ++p)
    for (std::int64_t q = 0; q < x.rows; ++q)
      dscore[p * x.rows + q] = weight[p * x.rows + q] * (dscore[p * x.rows + q] - mean[q]);
  for (std::int64_t q = 0; q < x.rows; ++q) dnull[q] = null_weight[q] * (dnull[q] - mean[q]);
}

/// Adds every pair's share to the tables, for the head `h` alone: one thread owns a head's columns,
/// so the order of the sums is that of the pairs.
template <class T>
void scatter_head(const Extent& x, std::int64_t h, const std::int64_t* indptr, std::int64_t steps,
                  const std::int64_t* slot, const std::int64_t* token, const T* weight,
                  const T* dscore, const T* dout, T* dscores, T* dvalues) {
  for (std::int64_t s = 0; s < steps; ++s)
    for (std::int64_t p = indptr[s]; p < indptr[s + 1]; ++p) {
      T* dv = dvalues + token[p] * x.dim() + h * x.width;
      for (std::int64_t q = h; q < x.rows; q += x.heads) {
        dscores[slot[p] * x.rows + q] += dscore[p * x.rows + q];
        const T w = weight[p * x.rows + q];
        const T* g = dout + s * x.out() + q * x.width;
        for (std::int64_t i = 0; i < x.width; ++i) dv[i] += w * g[i];
      }
    }
}

struct EventAttention : torch::autograd::Function<EventAttention> {
  static Tensor forward(AutogradContext* ctx, Tensor scores, Tensor null_scores, Tensor values,
                        Tensor null_value, Tensor indptr, Tensor slot, Tensor token,
                        std::int64_t heads) {
    scores = scores.contiguous();
    null_scores = null_scores.contiguous();
    values = values.contiguous();
    null_value = null_value.contiguous();
    const Extent x{scores.size(1), heads, values.size(1) / heads};
    const std::int64_t steps = indptr.size(0) - 1;
    Tensor weight = torch::empty({slot.size(0), x.rows}, scores.options());
    Tensor null_weight = torch::empty({steps, x.rows}, scores.options());
    Tensor out = torch::empty({steps, x.out()}, scores.options());
    const auto* first = indptr.data_ptr<std::int64_t>();
    AT_DISPATCH_FLOATING_TYPES(scores.scalar_type(), "event_attention", [&] {
      at::parallel_for(0, steps, 16, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t s = b; s < e; ++s)
          attend_step(x, scores.data_ptr<scalar_t>(), null_scores.data_ptr<scalar_t>(),
                      values.data_ptr<scalar_t>(), null_value.data_ptr<scalar_t>(),
                      slot.data_ptr<std::int64_t>() + first[s],
                      token.data_ptr<std::int64_t>() + first[s], first[s + 1] - first[s],
                      weight.data_ptr<scalar_t>() + first[s] * x.rows,
                      null_weight.data_ptr<scalar_t>() + s * x.rows,
                      out.data_ptr<scalar_t>() + s * x.out());
      });
    });
    ctx->save_for_backward({values, null_value, indptr, slot, token, weight, null_weight});
    ctx->saved_data["heads"] = heads;
    ctx->saved_data["slots"] = scores.size(0);
    return out.view({steps, x.rows / heads, x.dim()});
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const Tensor &values = saved[0], &null_value = saved[1], &indptr = saved[2], &slot = saved[3],
                 &token = saved[4], &weight = saved[5], &null_weight = saved[6];
    const std::int64_t heads = ctx->saved_data["heads"].toInt();
    const Extent x{weight.size(1), heads, values.size(1) / heads};
    const std::int64_t steps = indptr.size(0) - 1;
    const Tensor dout = grads[0].contiguous();
    Tensor dscore = torch::empty_like(weight);
    Tensor dnull = torch::empty_like(null_weight);
    Tensor dscores = torch::zeros({ctx->saved_data["slots"].toInt(), x.rows}, weight.options());
    Tensor dvalues = torch::zeros_like(values);
    const auto* first = indptr.data_ptr<std::int64_t>();
    AT_DISPATCH_FLOATING_TYPES(weight.scalar_type(), "event_attention_backward", [&] {
      at::parallel_for(0, steps, 16, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t s = b; s < e; ++s)
          backward_step(x, values.data_ptr<scalar_t>(), null_value.data_ptr<scalar_t>(),
                        token.data_ptr<std::int64_t>() + first[s], first[s + 1] - first[s],
                        weight.data_ptr<scalar_t>() + first[s] * x.rows,
                        null_weight.data_ptr<scalar_t>() + s * x.rows,
                        dout.data_ptr<scalar_t>() + s * x.out(),
                        dscore.data_ptr<scalar_t>() + first[s] * x.rows,
                        dnull.data_ptr<scalar_t>() + s * x.rows);
      });
      at::parallel_for(0, heads, 1, [&](std::int64_t b, std::int64_t e) {
        for (std::int64_t h = b; h < e; ++h)
          scatter_head(x, h, first, steps, slot.data_ptr<std::int64_t>(),
                       token.data_ptr<std::int64_t>(), weight.data_ptr<scalar_t>(),
                       dscore.data_ptr<scalar_t>(), dout.data_ptr<scalar_t>(),
                       dscores.data_ptr<scalar_t>(), dvalues.data_ptr<scalar_t>());
      });
    });
    const Tensor dnull_value =
        (null_weight.view({steps, -1, heads, 1}) * dout.view({steps, -1, heads, x.width}))
            .sum(torch::IntArrayRef({0, 1}))
            .view({x.dim()});
    return {dscores, dnull.sum(0), dvalues, dnull_value, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

Tensor event_attention(const Tensor& scores, const Tensor& null_scores, const Tensor& values,
                       const Tensor& null_value, const EventPairs& pairs, std::int64_t heads) {
  if (!scores.device().is_cpu())
    return event_attention_composed(scores, null_scores, values, null_value, pairs, heads);
  return EventAttention::apply(scores, null_scores, values, null_value, pairs.indptr, pairs.slot,
                               pairs.token, heads);
}

Tensor event_attention_composed(const Tensor& scores, const Tensor& null_scores,
                                const Tensor& values, const Tensor& null_value,
                                const EventPairs& pairs, std::int64_t heads) {
  const std::int64_t rows = scores.size(1);
  const std::int64_t steps = pairs.indptr.size(0) - 1;
  const std::int64_t tokens = values.size(0);
  const std::int64_t width = values.size(1) / heads;
  // Row-major by query row, so that gather and scatter run along contiguous memory.
  const Tensor by_row = scores.t().contiguous();
  const Tensor picked = by_row.gather(1, pairs.slot.unsqueeze(0).expand({rows, -1}));
  const Tensor step = pairs.step.unsqueeze(0).expand({rows, -1});
  Tensor top;
  {
    const torch::NoGradGuard no_grad;
    top = null_scores.detach()
              .unsqueeze(1)
              .expand({rows, steps})
              .contiguous()
              .scatter_reduce(1, step, picked.detach(), "amax", true);
  }
  const Tensor e = torch::exp(picked - top.gather(1, step));
  const Tensor e_null = torch::exp(null_scores.unsqueeze(1) - top);
  const Tensor sum = e_null.scatter_add(1, step, e);
  // A[row, step, token]: the weights as a dense matrix, which a GEMM takes to the values.
  const Tensor cell = (pairs.step * tokens + pairs.token).unsqueeze(0).expand({rows, -1});
  const Tensor dense = torch::zeros({rows, steps * tokens}, scores.options())
                           .scatter_add(1, cell, e)
                           .view({rows / heads, heads, steps, tokens});
  const Tensor by_head = values.view({tokens, heads, width}).permute({1, 0, 2});
  Tensor out = torch::matmul(dense, by_head);  // [R, H, steps, width]
  out = out + e_null.view({rows / heads, heads, steps, 1}) * null_value.view({1, heads, 1, width});
  out = out / sum.view({rows / heads, heads, steps, 1});
  return out.permute({2, 0, 1, 3}).reshape({steps, rows / heads, heads * width});
}

}  // namespace cortex::train
