#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/reference/reference_ops.h"

namespace cortex {
namespace {

/// Where step `slot` of stream b keeps K of `layer`; V lies `page_steps * latents * dim` behind.
float* cached_k(const PagedKv& cache, int b, int slot, int layer, std::int64_t step_floats) {
  const std::int32_t page = cache.pages[cache.indptr[b] + slot / cache.page_steps];
  return reinterpret_cast<float*>(cache.pool + page * cache.page_bytes) +
         (2 * static_cast<std::int64_t>(layer) * cache.page_steps + slot % cache.page_steps) *
             step_floats;
}

/// Pairs (i, i + half) turn by one angle each.
void rotate(const float* x, const float* cosines, const float* sines, int half, float* out) {
  for (int i = 0; i < half; ++i) {
    const float a = x[i];
    const float b = x[i + half];
    out[i] = a * cosines[i] - b * sines[i];
    out[i + half] = a * sines[i] + b * cosines[i];
  }
}

}  // namespace

void ReferenceOps::additive_bag(const StreamTables& t, const StreamEvents& events, MatrixView out) {
  const std::int64_t width = static_cast<std::int64_t>(t.latents) * t.dim;
  for (int b = 0; b < events.steps; ++b) {
    float* row = out.data + b * width;
    std::memcpy(row, t.latent, static_cast<std::size_t>(width) * sizeof(float));
    for (std::int32_t e = events.present[b]; e < events.indptr[b + 1]; ++e) {
      const auto value = static_cast<float>(events.event[e].value);
      const float* add = t.additive + events.event[e].unit * width;
      for (std::int64_t d = 0; d < width; ++d) row[d] += value * add[d];
    }
  }
}

void ReferenceOps::stream_cross_attention(const StreamTables& t, const StreamEvents& events,
                                          MatrixView out) {
  const auto bucket = [&](std::int32_t e) {
    return std::min(events.event[e].value, t.value_buckets - 1);
  };
  const auto rstd = [&](std::int32_t e) {
    return t.rstd[static_cast<std::int64_t>(events.event[e].unit) * t.value_buckets + bucket(e)];
  };
  const auto row_of = [&](std::int64_t row, std::int32_t offset) {
    return (row * t.offsets + offset) * t.latents * t.heads;
  };
  for (int b = 0; b < events.steps; ++b) {
    const std::int32_t begin = events.indptr[b];
    const std::int32_t count = events.indptr[b + 1] - begin;
    reserve_scores(count + 1);
    for (int r = 0; r < t.latents; ++r) {
      float* row = out.data + (static_cast<std::int64_t>(b) * t.latents + r) * out.stride;
      for (int h = 0; h < t.heads; ++h) {
        const int query = h * t.latents + r;
        const int at = h * t.head_dim;
        for (std::int32_t j = 0; j < count; ++j) {
          const std::int32_t e = begin + j, offset = events.event[e].offset;
          scores_[j] = rstd(e) * (t.unit_score[row_of(events.event[e].unit, offset) + query] +
                                  t.value_score[row_of(bucket(e), offset) + query]);
        }
        scores_[count] = t.null_score[query];
        reference::softmax(scores_.data(), count + 1);
        for (int d = 0; d < t.head_dim; ++d) row[at + d] = scores_[count] * t.null_v[at + d];
        for (std::int32_t j = 0; j < count; ++j) {
          const std::int32_t e = begin + j;
          const float w = scores_[j] * rstd(e);
          const float* unit =
              t.unit_v + static_cast<std::int64_t>(events.event[e].unit) * t.dim + at;
          const float* value = t.value_v + static_cast<std::int64_t>(bucket(e)) * t.dim + at;
          for (int d = 0; d < t.head_dim; ++d) row[at + d] += w * (unit[d] + value[d]);
        }
      }
    }
  }
}

void ReferenceOps::rotate_append(const PagedAttentionArgs& a) {
  const int half = a.head_dim / 2;
  const std::int64_t dim = static_cast<std::int64_t>(a.heads) * a.head_dim;
  const std::int64_t step_floats = a.latents * dim;
  for (int b = 0; b < a.steps; ++b) {
    const float* c = a.cosines + static_cast<std::int64_t>(b) * half;
    const float* s = a.sines + static_cast<std::int64_t>(b) * half;
    float* k_out = cached_k(a.cache, b, a.cache.slot[b], a.layer, step_floats);
    float* v_out = k_out + a.cache.page_steps * step_floats;
    for (int r = 0; r < a.latents; ++r) {
      float* row = a.qkv.data + (static_cast<std::int64_t>(b) * a.latents + r) * a.qkv.stride;
      for (int h = 0; h < a.heads; ++h) {
        const int at = h * a.head_dim;
        rotate(row + at, c, s, half, row + at);
        rotate(row + dim + at, c, s, half, k_out + r * dim + at);
      }
      std::memcpy(v_out + r * dim, row + 2 * dim, static_cast<std::size_t>(dim) * sizeof(float));
    }
  }
}

void ReferenceOps::paged_attention(const PagedAttentionArgs& a) {
  rotate_append(a);
  const std::int64_t dim = static_cast<std::int64_t>(a.heads) * a.head_dim;
  const std::int64_t step_floats = a.latents * dim;
  const float scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  const int window = a.cache.window_steps;
  reserve_scores(static_cast<std::int64_t>(window) * a.latents);
  for (int b = 0; b < a.steps; ++b) {
    const int live = a.cache.live[b];
    const int oldest = (a.cache.slot[b] - live + 1 + window) % window;
    // Calls f(K of a step) oldest first: the order of every sum is the stream's own.
    const auto each_step = [&](auto&& f) {
      for (int i = 0; i < live; ++i)
        f(cached_k(a.cache, b, (oldest + i) % window, a.layer, step_floats));
    };
    for (int r = 0; r < a.latents; ++r) {
      const std::int64_t at_row = static_cast<std::int64_t>(b) * a.latents + r;
      const float* q = a.qkv.data + at_row * a.qkv.stride;
      float* out = a.out.data + at_row * a.out.stride;
      for (int h = 0; h < a.heads; ++h) {
        const int at = h * a.head_dim;
        std::int64_t n = 0;
        each_step([&](const float* k) {
          for (int j = 0; j < a.latents; ++j)
            scores_[n++] = scale * reference::dot(q + at, k + j * dim + at, a.head_dim);
        });
        reference::softmax(scores_.data(), n);
        std::fill_n(out + at, a.head_dim, 0.0f);
        n = 0;
        each_step([&](const float* k) {
          const float* v = k + a.cache.page_steps * step_floats;
          for (int j = 0; j < a.latents; ++j) {
            const float w = scores_[n++];
            for (int d = 0; d < a.head_dim; ++d) out[at + d] += w * v[j * dim + at + d];
          }
        });
      }
    }
  }
}

}  // namespace cortex
