// Included by kernels_*.cpp inside the namespace of one instruction set.

/// Memory of one call, cut up.
class Scratch {
 public:
  explicit Scratch(std::byte* at) : at_(at) {}
  template <class T>
  T* take(std::int64_t count) {
    T* const taken = reinterpret_cast<T*>(at_);
    at_ += round_up(count * static_cast<std::int64_t>(sizeof(T)), 64);
    return taken;
  }

 private:
  std::byte* at_;
};

/// Fetches a row of one head: rows lie far apart, so no hardware foresees the next.
inline void fetch_row(const MatrixView& m, std::int64_t row, int head_dim) {
  for (int d = 0; d < head_dim; d += kLanes) prefetch(m.data + row * m.stride + d);
}
constexpr std::int64_t kRowsAhead = 8;

/// K of one head, transposed into panels: [keys / kColumns][head_dim / group][kColumns][group].
template <class T>
void pack_keys(const MatrixView& k, std::int64_t first, std::int64_t keys, int head_dim,
               typename T::B* to) {
  const std::int64_t lines = round_up(head_dim, T::kGroup) / T::kGroup;
  for (std::int64_t j = 0; j < round_up(keys, kColumns); j += kLanes) {
    typename T::B* const out = to + (j / kColumns * lines * kColumns + j % kColumns) * T::kGroup;
    for (std::int64_t line = 0; line < lines; line += kLanes) {
      F square[kLanes];  // of words
      for (int i = 0; i < kLanes; ++i) {
        if (line == 0 && j + i + kLanes < keys) fetch_row(k, first + j + i + kLanes, head_dim);
        F inputs[T::kGroup];
        for (int g = 0; g < T::kGroup; ++g) {
          const std::int64_t d = line * T::kGroup + g * kLanes;
          inputs[g] = j + i < keys && d < head_dim
                          ? load_part(k.data + (first + j + i) * k.stride + d, head_dim - d)
                          : set(0);
        }
        square[i] = T::words(inputs);
      }
      transpose(square);
      for (std::int64_t i = 0; i < least(kLanes, lines - line); ++i)
        T::store_words(out + (line + i) * kColumns * T::kGroup, square[i]);
    }
  }
}

/// V of one head in panels: [head_dim / kColumns][keys / group][kColumns][group].
template <class T>
void pack_values(const MatrixView& v, std::int64_t first, std::int64_t keys, int head_dim,
                 typename T::B* to) {
  const std::int64_t padded = round_up(keys, T::kGroup);
  for (std::int64_t j = 0; j < padded; j += T::kGroup) {
    for (int g = 0; g < T::kGroup; ++g)
      if (j + g + kRowsAhead < keys) fetch_row(v, first + j + g + kRowsAhead, head_dim);
    for (std::int64_t d = 0; d < round_up(head_dim, kColumns); d += kLanes) {
      F rows[T::kGroup];
      for (int g = 0; g < T::kGroup; ++g)
        rows[g] = j + g < keys && d < head_dim
                      ? load_part(v.data + (first + j + g) * v.stride + d, head_dim - d)
                      : set(0);
      T::store_words(
          to + d / kColumns * kColumns * padded + j * kColumns + d % kColumns * T::kGroup,
          T::across(rows));
    }
  }
}

/// Keys of a block as the scores have them: whole panels, every panel [kTileRows][kColumns].
constexpr std::int64_t kBlockPanels = (kKeyBlock + kColumns - 1) / kColumns;

/// The largest score of a row, which lies in `panels` panels, and `top`.
inline float highest(const float* scores, std::int64_t panels, float top) {
  F high[kVectors];
#pragma GCC unroll 8
  for (F& h : high) h = set(top);
  for (std::int64_t p = 0; p < panels; ++p)
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n)
      high[n] = max(high[n], load(scores + p * kTileRows * kColumns + n * kLanes));
  for (int n = 1; n < kVectors; ++n) high[0] = max(high[0], high[n]);
  return largest(high[0]);
}

/// Softmax weights e^(s - top) of a row as activations, not divided by their sum, which is
/// returned.
template <class T>
float soften(const float* scores, std::int64_t panels, float top, typename T::A* weights) {
  if (top == -kInfinity) {
    for (std::int64_t j = 0; j < panels * kColumns; j += kLanes) T::convert(set(0), weights + j);
    return 0;
  }
  constexpr float kLog2e = 1.44269504089f;
  const F highest = set(top), power = set(-top * kLog2e);
  F sums[kVectors];
#pragma GCC unroll 8
  for (F& s : sums) s = set(0);
  for (std::int64_t p = 0; p < panels; ++p) {
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const F s = load(scores + p * kTileRows * kColumns + n * kLanes);
      const F e =
          kFloat32<T> ? exp_negative(sub(s, highest)) : exp2_narrow(fma(s, set(kLog2e), power));
      sums[n] = add(sums[n], e);
      T::convert(e, weights + p * kColumns + n * kLanes);
    }
  }
  for (int n = 1; n < kVectors; ++n) sums[0] = add(sums[0], sums[n]);
  return sum(sums[0]);
}

/// e^-x
inline float decay(float x) {
  float lanes[kLanes];
  store(lanes, exp_negative(set(-x)));
  return lanes[0];
}

template <class T>
void attend(const HeadAttentionArgs& a) {
  using A = typename T::A;
  using B = typename T::B;
  const std::int64_t width = round_up(a.head_dim, T::kGroup);
  const std::int64_t value_panels = round_up(a.head_dim, kColumns) / kColumns;
  const std::int64_t tiles = (a.queries + kTileRows - 1) / kTileRows;
  Scratch scratch(a.scratch);
  B* const k = scratch.take<B>(kBlockPanels * kColumns * width);
  B* const v = scratch.take<B>(value_panels * kColumns * (kKeyBlock + T::kGroup));
  A* const q = scratch.take<A>(tiles * kTileRows * width + kLanes);
  float* const scores = scratch.take<float>(kBlockPanels * kTileRows * kColumns);
  const std::int64_t weight_stride = kBlockPanels * kColumns;
  A* const weights = scratch.take<A>(kTileRows * weight_stride);
  float* const sums = scratch.take<float>(tiles * kTileRows * value_panels * kColumns);
  float* const top = scratch.take<float>(tiles * kTileRows);
  float* const total = scratch.take<float>(tiles * kTileRows);

  const F scale = set(1.0f / __builtin_sqrtf(static_cast<float>(a.head_dim)));
  for (std::int64_t i = 0; i < a.queries; ++i) {
    if (i + kRowsAhead < a.queries) fetch_row(a.q, i + kRowsAhead, a.head_dim);
    for (std::int64_t d = 0; d < width; d += kLanes)
      T::convert(mul(load_part(a.q.data + i * a.q.stride + d, a.head_dim - d), scale),
                 q + i * width + d);
    top[i] = -kInfinity;
    total[i] = 0;
  }
  for (std::int64_t first = 0; first < a.keys; first += kKeyBlock) {
    const std::int64_t keys = least(kKeyBlock, a.keys - first);
    const std::int64_t panels = round_up(keys, kColumns) / kColumns;
    pack_keys<T>(a.k, first, keys, a.head_dim, k);
    pack_values<T>(a.v, first, keys, a.head_dim, v);
    for (std::int64_t t = 0; t < tiles; ++t) {
      const std::int64_t i = t * kTileRows;
      const auto rows = static_cast<int>(least(kTileRows, a.queries - i));
      for (std::int64_t p = 0; p < panels; ++p) {
        float* const to = scores + p * kTileRows * kColumns;
        tile_rows<T, false>(rows, q + i * width, width, k + p * kColumns * width, width / T::kGroup,
                            true, to);
        if (a.key_bins == nullptr) continue;
        for (int m = 0; m < rows; ++m) {
          for (int n = 0; n < kColumns; n += kLanes) {
            const std::int64_t j = p * kColumns + n;
            if (j >= keys) break;
            std::int32_t bins[kLanes] = {};
            for (int lane = 0; lane < kLanes && j + lane < keys; ++lane)
              bins[lane] = a.key_bins[first + j + lane];
            float* const s = to + m * kColumns + n;
            store(s, keep_between(load(s), bins, a.low[i + m], a.high[i + m]));
          }
        }
      }
      float* const out = sums + i * value_panels * kColumns;
      float tops[kTileRows];
      for (int m = 0; m < rows; ++m) {
        // Keys that only fill the last panel.
        for (std::int64_t j = keys; j < panels * kColumns; ++j)
          scores[((panels - 1) * kTileRows + m) * kColumns + j % kColumns] = -kInfinity;
        tops[m] = highest(scores + m * kColumns, panels, top[i + m]);
      }
      for (int m = 0; m < rows; ++m) {
        const float added =
            soften<T>(scores + m * kColumns, panels, tops[m], weights + m * weight_stride);
        const float before = top[i + m];
        top[i + m] = tops[m];
        if (before == -kInfinity || before == tops[m]) {
          total[i + m] += added;
          continue;
        }
        // What was summed before counts less.
        const float shrink = decay(tops[m] - before);
        total[i + m] = total[i + m] * shrink + added;
        for (std::int64_t p = 0; p < value_panels; ++p)
          for (int n = 0; n < kColumns; n += kLanes) {
            float* const s = out + (p * kTileRows + m) * kColumns + n;
            store(s, mul(load(s), set(shrink)));
          }
      }
      for (std::int64_t p = 0; p < value_panels; ++p)
        tile_rows<T, false>(
            rows, weights, weight_stride, v + p * kColumns * round_up(keys, T::kGroup),
            round_up(keys, T::kGroup) / T::kGroup, first == 0, out + p * kTileRows * kColumns);
    }
  }
  for (std::int64_t i = 0; i < a.queries; ++i) {
    const F share = set(total[i] > 0 ? 1 / total[i] : 0.0f);
    const float* const from =
        sums + i / kTileRows * kTileRows * value_panels * kColumns + i % kTileRows * kColumns;
    for (std::int64_t d = 0; d < a.head_dim; d += kLanes) {
      const float* const s = from + d / kColumns * kTileRows * kColumns + d % kColumns;
      const F y = total[i] > 0 ? mul(load(s), share) : set(0);
      store_part(a.out.data + i * a.out.stride + d, y, a.head_dim - d);
    }
  }
}

void head_attention(const HeadAttentionArgs& args) {
  if (args.precision == DType::f32) return attend<F32>(args);
  attend<Bf16>(args);
}

std::size_t head_attention_scratch_bytes(std::int64_t queries, int head_dim) {
  const std::int64_t rows = round_up(queries, kTileRows);
  const std::int64_t width = round_up(head_dim, kColumns);
  const std::int64_t block = kBlockPanels * kColumns + kColumns;
  constexpr std::int64_t kParts = 8, kFloat = 4;
  return static_cast<std::size_t>(
      kFloat * (2 * block * width + 2 * kTileRows * block + rows * (2 * width + 2) + kLanes) +
      kParts * 64);
}
