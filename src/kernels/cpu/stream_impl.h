// Included by kernels_*.cpp inside the namespace of one instruction set.

constexpr int kQueryTile = 4;  // latents that share a pass over keys or values

template <int N>
struct Count {
  static constexpr int value = N;
};
/// Calls f with 1 to kQueryTile as a constant.
template <class Call>
void with_rows(int rows, Call&& f) {
  switch (rows) {
    case 1:
      return f(Count<1>{});
    case 2:
      return f(Count<2>{});
    case 3:
      return f(Count<3>{});
    default:
      return f(Count<kQueryTile>{});
  }
}

/// Softmax down each of `columns` columns of scores [rows, columns], but not divided by the sums.
void soften_columns(float* scores, std::int64_t rows, int columns, float* totals) {
  for (int c = 0; c < columns; ++c) {
    float top = scores[c];
    for (std::int64_t j = 1; j < rows; ++j)
      top = scores[j * columns + c] > top ? scores[j * columns + c] : top;
    for (std::int64_t j = 0; j < rows; ++j) scores[j * columns + c] -= top;
  }
  const std::int64_t count = rows * columns;
  for (std::int64_t i = 0; i < count; i += kLanes)
    store_part(scores + i, exp_negative(load_part(scores + i, count - i)), count - i);
  for (int c = 0; c < columns; ++c) {
    float total = 0;
    for (std::int64_t j = 0; j < rows; ++j) total += scores[j * columns + c];
    totals[c] = total;
  }
}

void pool_columns(const float* weights, std::int64_t rows, int columns, const float* totals,
                  MatrixView x, std::int64_t begin, std::int64_t end, MatrixView out) {
  for (int c = 0; c < columns; c += kQueryTile) {
    const int tile = columns - c < kQueryTile ? columns - c : kQueryTile;
    with_rows(tile, [&](auto n) {
      for (std::int64_t d = begin; d < end; d += kLanes) {
        F acc[n.value];
        for (int m = 0; m < n.value; ++m) acc[m] = set(0);
        for (std::int64_t r = 0; r < rows; ++r) {
          const F v = load_part(x.data + r * x.stride + d, end - d);
          for (int m = 0; m < n.value; ++m)
            acc[m] = fma(set(weights[r * columns + c + m]), v, acc[m]);
        }
        for (int m = 0; m < n.value; ++m)
          store_part(out.data + (c + m) * out.stride + d, mul(acc[m], set(1 / totals[c + m])),
                     end - d);
      }
    });
  }
}

/// Latents and the additive rows of the present step's events, columns [begin, end) of [R * dim].
void additive_bag(const StreamTables& t, const StreamEvents& events, std::int32_t stream,
                  std::int64_t begin, std::int64_t end, float* out) {
  constexpr int kVecs = 4;
  const std::int64_t width = static_cast<std::int64_t>(t.latents) * t.dim;
  for (std::int64_t d = begin; d < end; d += kVecs * kLanes) {
    F acc[kVecs];
    for (int n = 0; n < kVecs; ++n)
      acc[n] = load_part(t.latent + d + n * kLanes, end - d - n * kLanes);
    for (std::int32_t e = events.present[stream]; e < events.indptr[stream + 1]; ++e) {
      const F value = set(static_cast<float>(events.event[e].value));
      const float* const row = t.additive + events.event[e].unit * width + d;
      for (int n = 0; n < kVecs; ++n)
        acc[n] = fma(value, load_part(row + n * kLanes, end - d - n * kLanes), acc[n]);
    }
    for (int n = 0; n < kVecs; ++n) store_part(out + d + n * kLanes, acc[n], end - d - n * kLanes);
  }
}

/// The events' share of one head: sum over the events of weight * (unit_v + value_v).
template <int kRows, int kVecs>
void gather_values(const StreamTables& t, const StreamEvents& events, std::int32_t begin,
                   std::int32_t count, const float* weights, std::int64_t stride, std::int64_t at,
                   std::int64_t width, const float* shares, float* const* out) {
  F acc[kRows][kVecs];
  const auto part = [&](const float* p, int n) {
    return load_part(p + at + n * kLanes, width - n * kLanes);
  };
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n)
      acc[r][n] = mul(set(weights[count * stride + r]), part(t.null_v, n));
  constexpr std::int32_t kAhead = 8;  // rows lie anywhere: no hardware foresees the next
  for (std::int32_t j = 0; j < count; ++j) {
    const std::int32_t e = begin + j;
    if (j + kAhead < count) {
      const float* const next =
          t.unit_v + static_cast<std::int64_t>(events.event[e + kAhead].unit) * t.dim + at;
      for (int n = 0; n < kVecs; ++n) prefetch(next + n * kLanes);
    }
    const StreamEvent& event = events.event[e];
    const auto bucket = event.value < t.value_buckets ? event.value : t.value_buckets - 1;
    const float* const unit = t.unit_v + static_cast<std::int64_t>(event.unit) * t.dim;
    const float* const value = t.value_v + static_cast<std::int64_t>(bucket) * t.dim;
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n) {
      const F v = add(part(unit, n), part(value, n));
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) acc[r][n] = fma(set(weights[j * stride + r]), v, acc[r][n]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n)
      store_part(out[r] + at + n * kLanes, mul(acc[r][n], set(shares[r])), width - n * kLanes);
}

/// Some heads of one stream. A lane is a head's latent, as the score tables have them side by side.
void stream_cross(const StreamTables& t, const StreamEvents& events, MatrixView out,
                  const StreamHeadArgs& which) {
  const std::int32_t begin = events.indptr[which.stream];
  const std::int32_t count = events.indptr[which.stream + 1] - begin;
  const int latents = t.latents;
  const std::int64_t columns = static_cast<std::int64_t>(which.heads) * latents;
  const std::int64_t stride = round_up(columns, kLanes);
  const std::int64_t first = static_cast<std::int64_t>(which.head) * latents;
  float* const shares = which.scratch;
  float* const weights = shares + stride;  // [events + 1, stride]
  const auto bucket_of = [&](std::int32_t e) {
    const std::int32_t value = events.event[e].value;
    return value < t.value_buckets ? value : t.value_buckets - 1;
  };
  const auto rstd_of = [&](std::int32_t e) {
    return t.rstd[static_cast<std::int64_t>(events.event[e].unit) * t.value_buckets + bucket_of(e)];
  };
  const auto row_of = [&](std::int64_t row, std::int32_t offset) {
    return (row * t.offsets + offset) * t.heads * latents + first;
  };
  // Lanes beyond the last column are 0 throughout, and are never read.
  for (std::int64_t c = 0; c < stride; c += kLanes) {
    F top = load_part(t.null_score + first + c, columns - c);
    store(weights + count * stride + c, top);
    for (std::int32_t j = 0; j < count; ++j) {
      const std::int32_t e = begin + j;
      const float* const unit = t.unit_score + row_of(events.event[e].unit, events.event[e].offset);
      const float* const value = t.value_score + row_of(bucket_of(e), events.event[e].offset);
      const F score = mul(set(rstd_of(e)),
                          add(load_part(unit + c, columns - c), load_part(value + c, columns - c)));
      store(weights + j * stride + c, score);
      top = max(top, score);
    }
    F total = set(0);
    for (std::int32_t j = 0; j <= count; ++j) {
      float* const at = weights + j * stride + c;
      const F weight = exp_negative(sub(load(at), top));
      total = add(total, weight);
      store(at, j < count ? mul(weight, set(rstd_of(begin + j))) : weight);
    }
    store(shares + c, total);
  }
  for (std::int64_t c = 0; c < columns; ++c) shares[c] = 1 / shares[c];

  for (int h = 0; h < which.heads; ++h) {
    const std::int64_t at = static_cast<std::int64_t>(which.head + h) * t.head_dim;
    for (int r = 0; r < latents; r += kQueryTile) {
      const std::int64_t c = static_cast<std::int64_t>(h) * latents + r;
      const int rows = latents - r < kQueryTile ? latents - r : kQueryTile;
      float* to[kQueryTile] = {};
      for (int m = 0; m < rows; ++m)
        to[m] = out.data + (static_cast<std::int64_t>(which.stream) * latents + r + m) * out.stride;
      const auto gather = [&](auto vecs, int d) {
        with_rows(rows, [&](auto n) {
          gather_values<n.value, vecs.value>(t, events, begin, count, weights + c, stride, at + d,
                                             t.head_dim - d, shares + c, to);
        });
      };
      int d = 0;
      for (; d + 4 * kLanes <= t.head_dim; d += 4 * kLanes) gather(Count<4>{}, d);
      for (; d < t.head_dim; d += kLanes) gather(Count<1>{}, d);
    }
  }
}

/// Where one head's K of `layer` lies in a page; V lies half a layer behind.
template <class T>
struct PageView {
  using B = typename T::B;
  const PagedAttentionArgs& a;
  std::int64_t dim = static_cast<std::int64_t>(a.heads) * a.head_dim;
  std::int64_t page_keys = static_cast<std::int64_t>(a.cache.page_steps) * a.latents;

  B* keys(int stream, int page, int head) const {
    const std::int32_t index = a.cache.pages[a.cache.indptr[stream] + page];
    auto* const base = reinterpret_cast<B*>(a.cache.pool + index * a.cache.page_bytes);
    return base + 2 * a.layer * page_keys * dim + head * page_keys * a.head_dim;
  }
  B* values(int stream, int page, int head) const {
    return keys(stream, page, head) + page_keys * dim;
  }
};

/// A head's K [head_dim / group][page_keys][group] and V [page_keys / group][head_dim][group]: keys
/// are lanes of a score, dimensions lanes of a sum.
template <class T>
void append(const PagedAttentionArgs& a, const StreamHeadArgs& which, typename T::A* query) {
  using B = typename T::B;
  constexpr std::int64_t kGroup = T::kGroup;
  const PageView<T> view{a};
  const int half = a.head_dim / 2;
  const int slot = a.cache.slot[which.stream];
  const int page = slot / a.cache.page_steps;
  B* const k_out = view.keys(which.stream, page, which.head);
  B* const v_out = view.values(which.stream, page, which.head);
  const float* const cosines = a.cosines + static_cast<std::int64_t>(which.stream) * half;
  const float* const sines = a.sines + static_cast<std::int64_t>(which.stream) * half;
  const F scale = set(1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim)));
  const std::int64_t first_key = static_cast<std::int64_t>(slot % a.cache.page_steps) * a.latents;
  for (int r = 0; r < a.latents; ++r) {
    const float* const q =
        a.qkv.data + (static_cast<std::int64_t>(which.stream) * a.latents + r) * a.qkv.stride +
        which.head * a.head_dim;
    const float* const k = q + view.dim;
    const float* const v = k + view.dim;
    const std::int64_t key = first_key + r;
    float turned_q[kMaxHeadDim + kLanes * kGroup] = {};
    float turned_k[kMaxHeadDim + kLanes * kGroup] = {};
    for (int i = 0; i < half; i += kLanes) {
      const auto part = [&](const float* p) { return load_part(p + i, half - i); };
      const F c = part(cosines), s = part(sines);
      const auto turn = [&](F low, F high, float* to) {
        store_part(to + i, sub(mul(low, c), mul(high, s)), half - i);
        store_part(to + half + i, add(mul(low, s), mul(high, c)), half - i);
      };
      turn(mul(scale, part(q)), mul(scale, part(q + half)), turned_q);
      turn(part(k), part(k + half), turned_k);
    }
    for (int d = 0; d < a.head_dim; d += kLanes)
      T::convert(load(turned_q + d), query + r * round_up(a.head_dim, kLanes) + d);
    for (std::int64_t d = 0; d < a.head_dim; d += kLanes * kGroup) {
      F inputs[kGroup];
      for (int g = 0; g < kGroup; ++g) inputs[g] = load(turned_k + d + g * kLanes);
      B words[kLanes * kGroup];
      T::store_words(words, T::words(inputs));
      for (std::int64_t i = 0; i < least(kLanes * kGroup, a.head_dim - d); ++i)
        k_out[((d + i) / kGroup * view.page_keys + key) * kGroup + i % kGroup] = words[i];
    }
    // The other keys of its group keep what they have.
    B* const v_group = v_out + key / kGroup * a.head_dim * kGroup;
    for (std::int64_t d = 0; d < a.head_dim; d += kLanes) {
      F rows[kGroup];
      for (F& row : rows) row = load_part(v + d, a.head_dim - d);
      B words[kLanes * kGroup];
      T::store_words(words, T::across(rows));
      for (std::int64_t i = 0; i < least(kLanes, a.head_dim - d); ++i)
        v_group[(d + i) * kGroup + key % kGroup] = words[i * kGroup];
    }
  }
}

/// Scores of kVecs vectors of keys: enough chains of sums to hide the latency of each. Meanwhile
/// the same part of `next`, as large a block as `k`, is fetched: pages lie anywhere.
template <class T, int kRows, int kVecs>
void page_scores(const typename T::A* q, std::int64_t q_stride, const typename T::B* k,
                 const typename T::B* next, std::int64_t page_keys, int groups, std::int64_t j,
                 float* scores, std::int64_t stride) {
  typename T::V acc[kRows][kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n) acc[r][n] = T::zero();
  for (int g = 0; g < groups; ++g) {
    decltype(T::load_b(k)) keys[kVecs];
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n) {
      const std::int64_t at = (g * page_keys + j + n * kLanes) * T::kGroup;
      keys[n] = T::load_b(k + at);
      prefetch(next + at);
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      const auto x = T::broadcast(q + r * q_stride + g * T::kGroup);
#pragma GCC unroll 4
      for (int n = 0; n < kVecs; ++n) acc[r][n] = T::dot(acc[r][n], keys[n], x);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n) T::store_acc(scores + r * stride + j + n * kLanes, acc[r][n]);
}

template <class T, int kRows, int kVecs>
void page_values(const typename T::A* weights, std::int64_t weight_stride,
                 const typename T::B* const* pages, int page_count, std::int64_t page_keys,
                 int head_dim, int d, const float* shares, float* const* out) {
  typename T::V acc[kRows][kVecs];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n) acc[r][n] = T::zero();
  for (int p = 0; p < page_count; ++p) {
    const typename T::B* const next = pages[p + 1 < page_count ? p + 1 : p];
    for (std::int64_t g = 0; g < page_keys / T::kGroup; ++g) {
      decltype(T::load_b(pages[p])) values[kVecs];
#pragma GCC unroll 4
      for (int n = 0; n < kVecs; ++n) {
        const std::int64_t at = (g * head_dim + d + n * kLanes) * T::kGroup;
        values[n] = T::load_b(pages[p] + at);
        prefetch(next + at);
      }
      const std::int64_t at = p * page_keys + g * T::kGroup;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const auto x = T::broadcast(weights + r * weight_stride + at);
#pragma GCC unroll 4
        for (int n = 0; n < kVecs; ++n) acc[r][n] = T::dot(acc[r][n], values[n], x);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int n = 0; n < kVecs; ++n) {
      float lanes[kLanes];
      T::store_acc(lanes, acc[r][n]);
      const int at = d + n * kLanes;
      store_part(out[r] + at, mul(load(lanes), set(shares[r])), head_dim - at);
    }
  }
}

template <class T>
void paged_of(const PagedAttentionArgs& a, const StreamHeadArgs& which) {
  using A = typename T::A;
  using B = typename T::B;
  const PageView<T> view{a};
  const int first_page = a.cache.indptr[which.stream];
  const int page_count = a.cache.indptr[which.stream + 1] - first_page;
  const std::int64_t keys = page_count * view.page_keys;
  const std::int64_t padded = round_up(a.head_dim, kLanes);
  Scratch scratch(reinterpret_cast<std::byte*>(which.scratch));
  A* const q = scratch.take<A>(a.latents * padded + kLanes);
  float* const scores = scratch.take<float>(kQueryTile * keys);
  A* const weights = scratch.take<A>(kQueryTile * keys);
  const B** const values = scratch.take<const B*>(page_count);
  const auto* const first = reinterpret_cast<const char*>(view.keys(which.stream, 0, which.head));
  for (std::int64_t line = 0; line < view.page_keys * a.head_dim * std::int64_t{sizeof(B)};
       line += 64)
    prefetch(first + line);
  append<T>(a, which, q);
  for (int p = 0; p < page_count; ++p) values[p] = view.values(which.stream, p, which.head);

  const int live = a.cache.live[which.stream], slot = a.cache.slot[which.stream];
  const int window = a.cache.window_steps;
  const auto dead = [&](int s) {
    return s >= window || (s > slot ? slot - s + window : slot - s) >= live;
  };
  for (int r = 0; r < a.latents; r += kQueryTile) {
    const int rows = a.latents - r < kQueryTile ? a.latents - r : kQueryTile;
    with_rows(rows, [&](auto n) {
      for (int p = 0; p < page_count; ++p) {
        const B* const k = view.keys(which.stream, p, which.head);
        const B* const next =
            p + 1 < page_count ? view.keys(which.stream, p + 1, which.head) : values[0];
        const auto score = [&](auto vecs, std::int64_t j) {
          page_scores<T, n.value, vecs.value>(q + r * padded, padded, k, next, view.page_keys,
                                              a.head_dim / T::kGroup, j,
                                              scores + p * view.page_keys, keys);
        };
        std::int64_t j = 0;
        for (; j + 2 * kLanes <= view.page_keys; j += 2 * kLanes) score(Count<2>{}, j);
        for (; j < view.page_keys; j += kLanes) score(Count<1>{}, j);
      }
    });
    for (int s = 0; s < page_count * a.cache.page_steps; ++s)
      if (dead(s))
        for (int m = 0; m < rows; ++m)
          for (int l = 0; l < a.latents; ++l) scores[m * keys + s * a.latents + l] = -kInfinity;
    float shares[kQueryTile] = {};
    float* out[kQueryTile] = {};
    for (int m = 0; m < rows; ++m) {
      F high = set(-kInfinity), total = set(0);
      for (std::int64_t j = 0; j < keys; j += kLanes) high = max(high, load(scores + m * keys + j));
      const F top = set(largest(high));
      for (std::int64_t j = 0; j < keys; j += kLanes) {
        const F e = exp_negative(sub(load(scores + m * keys + j), top));
        total = add(total, e);
        T::convert(e, weights + m * keys + j);
      }
      shares[m] = 1 / sum(total);
      out[m] = a.out.data +
               (static_cast<std::int64_t>(which.stream) * a.latents + r + m) * a.out.stride +
               which.head * a.head_dim;
    }
    with_rows(rows, [&](auto n) {
      const auto sum_up = [&](auto vecs, int d) {
        page_values<T, n.value, vecs.value>(weights, keys, values, page_count, view.page_keys,
                                            a.head_dim, d, shares, out);
      };
      int d = 0;
      for (; d + 4 * kLanes <= a.head_dim; d += 4 * kLanes) sum_up(Count<4>{}, d);
      for (; d < a.head_dim; d += kLanes) sum_up(Count<1>{}, d);
    });
  }
}

void paged(const PagedAttentionArgs& a, const StreamHeadArgs& which) {
  if (a.cache.dtype == DType::f32) return paged_of<F32>(a, which);
  paged_of<Bf16>(a, which);
}
