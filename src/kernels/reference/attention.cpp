#include <algorithm>
#include <cmath>

#include "kernels/reference/reference_ops.h"

namespace cortex {

void reference::softmax(float* scores, std::int64_t n) {
  const float top = *std::max_element(scores, scores + n);
  float sum = 0;
  for (std::int64_t j = 0; j < n; ++j) {
    scores[j] = std::exp(scores[j] - top);
    sum += scores[j];
  }
  const float scale = 1.0f / sum;
  for (std::int64_t j = 0; j < n; ++j) scores[j] *= scale;
}

void ReferenceOps::ragged_attention(const RaggedAttentionArgs& a) {
  const float scale = 1.0f / std::sqrt(static_cast<float>(a.head_dim));
  for (int item = 0; item < a.items; ++item) {
    const std::int32_t begin = a.indptr[item];
    const std::int32_t end = a.indptr[item + 1];
    reserve_scores(end - begin);
    for (std::int64_t i = 0; i < a.queries; ++i) {
      const float* q = a.q.data + (a.shared_q ? i : item * a.queries + i) * a.q.stride;
      float* out = a.out.data + (item * a.queries + i) * a.out.stride;
      const double centre =
          a.key_bins ? static_cast<double>(i) * a.item_bins[item] / static_cast<double>(a.queries)
                     : 0.0;
      const auto visible = [&](std::int32_t j) {
        return !a.key_bins || std::abs(centre - a.key_bins[j]) <= a.reach_bins;
      };
      for (int h = 0; h < a.heads; ++h) {
        const std::int64_t at = static_cast<std::int64_t>(h) * a.head_dim;
        std::int64_t n = 0;
        for (std::int32_t j = begin; j < end; ++j)
          if (visible(j))
            scores_[n++] =
                scale * reference::dot(q + at, a.k.data + j * a.k.stride + at, a.head_dim);
        std::fill_n(out + at, a.head_dim, 0.0f);
        if (n == 0) continue;
        reference::softmax(scores_.data(), n);
        n = 0;
        for (std::int32_t j = begin; j < end; ++j) {
          if (!visible(j)) continue;
          const float w = scores_[n++];
          const float* v = a.v.data + j * a.v.stride + at;
          for (int d = 0; d < a.head_dim; ++d) out[at + d] += w * v[d];
        }
      }
    }
  }
}

void ReferenceOps::softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows,
                                MatrixView out) {
  reserve_scores(rows);
  for (std::int64_t o = 0; o < out.rows; ++o) {
    const std::int64_t first = o / scores.cols * rows;
    for (std::int64_t r = 0; r < rows; ++r)
      scores_[r] = scores.data[(first + r) * scores.stride + o % scores.cols];
    reference::softmax(scores_.data(), rows);
    float* const to = out.data + o * out.stride;
    std::fill_n(to, out.cols, 0.0f);
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t d = 0; d < out.cols; ++d)
        to[d] += scores_[r] * x.data[(first + r) * x.stride + d];
  }
}

}  // namespace cortex
