// Included by kernels_*.cpp inside the namespace of one instruction set.

constexpr int kColumns = kLanes * kVectors;
constexpr std::int64_t kPanelBytes = 32 << 10;  // of weights that one pass keeps in the first cache
constexpr std::int64_t kPrefetchBytes = 16384;

/// C[MR, kColumns] (+)= A[MR, ..] B. Every element is one chain of sums over the inputs in their
/// order, whatever the number of rows.
template <class T, int kRows, bool kStream>
void tile(const typename T::A* a, std::int64_t lda, const typename T::B* b, std::int64_t groups,
          bool first, typename T::Acc* c) {
  typename T::V acc[kRows][kVectors];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n)
      acc[m][n] = first ? T::zero() : T::load_acc(c + m * kColumns + n * kLanes);
  for (std::int64_t g = 0; g < groups; ++g) {
    decltype(T::load_b(b)) w[kVectors];
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) w[n] = T::load_b(b + n * kLanes * T::kGroup);
    if (kStream) {
      const auto* ahead = reinterpret_cast<const char*>(b) + kPrefetchBytes;
      for (std::size_t line = 0; line < kColumns * T::kGroup * sizeof(typename T::B); line += 64)
        prefetch(ahead + line);
    }
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      const auto x = T::broadcast(a + m * lda + g * T::kGroup);
#pragma GCC unroll 8
      for (int n = 0; n < kVectors; ++n) acc[m][n] = T::dot(acc[m][n], w[n], x);
    }
    b += kColumns * T::kGroup;
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) T::store_acc(c + m * kColumns + n * kLanes, acc[m][n]);
}

template <class T, bool kStream>
void tile_rows(int rows, const typename T::A* a, std::int64_t lda, const typename T::B* b,
               std::int64_t groups, bool first, typename T::Acc* c) {
  static_assert(kTileRows <= 6);
  switch (rows) {
    case 1:
      return tile<T, 1, kStream>(a, lda, b, groups, first, c);
    case 2:
      return tile<T, 2, kStream>(a, lda, b, groups, first, c);
    case 3:
      return tile<T, 3, kStream>(a, lda, b, groups, first, c);
    case 4:
      return tile<T, 4, kStream>(a, lda, b, groups, first, c);
    case 5:
      return tile<T, 5, kStream>(a, lda, b, groups, first, c);
    default:
      return tile<T, kTileRows, kStream>(a, lda, b, groups, first, c);
  }
}

/// Scale, bias and epilogue of the panel's columns: of all of them, or of what there is.
template <class T, Epilogue kEpilogue, bool kWhole>
void finish_columns(const GemmArgs& g, const typename T::Acc* c, std::int64_t row, int rows) {
  constexpr bool kInteger = requires { T::kWeightOffset; };
  const std::int64_t first = g.panel * kColumns;
  const auto width = [&](int n) { return kWhole ? kLanes : g.outputs - first - n * kLanes; };
  F weight_scale[kVectors], bias[kVectors];
#pragma GCC unroll 8
  for (int n = 0; n < kVectors; ++n) {
    const std::int64_t column = first + n * kLanes;
    if (kInteger) weight_scale[n] = load_part(g.weight_scale + column, width(n));
    bias[n] = g.bias ? load_part(g.bias + column, width(n)) : set(0);
  }
  for (int m = 0; m < rows; ++m) {
    float* const out = g.out.data + (row + m) * g.out.stride + first;
    [[maybe_unused]] F scale = set(0);
    [[maybe_unused]] std::int32_t less = 0;
    if constexpr (kInteger) {
      scale = set(g.a.scale[row + m]);
      less = T::kWeightOffset * g.a.sum[row + m];
    }
#pragma GCC unroll 8
    for (int n = 0; n < kVectors; ++n) {
      const typename T::Acc* const from = c + m * kColumns + n * kLanes;
      F y = set(0);
      if constexpr (kInteger) {
        y = mul(T::to_float(from, less), mul(scale, weight_scale[n]));
      } else {
        y = load(from);
      }
      y = add(y, bias[n]);
      if (kEpilogue == Epilogue::gelu) y = gelu(y);
      if (kEpilogue == Epilogue::add) y = add(y, load_part(out + n * kLanes, width(n)));
      store_part(out + n * kLanes, y, width(n));
    }
  }
}

template <class T, Epilogue kEpilogue>
void finish_rows(const GemmArgs& g, const typename T::Acc* c, std::int64_t row, int rows) {
  if ((g.panel + 1) * kColumns <= g.outputs)
    finish_columns<T, kEpilogue, true>(g, c, row, rows);
  else
    finish_columns<T, kEpilogue, false>(g, c, row, rows);
}

template <class T>
void finish(const GemmArgs& g, const typename T::Acc* c, std::int64_t row, int rows) {
  switch (g.epilogue) {
    case Epilogue::store:
      return finish_rows<T, Epilogue::store>(g, c, row, rows);
    case Epilogue::gelu:
      return finish_rows<T, Epilogue::gelu>(g, c, row, rows);
    case Epilogue::add:
      return finish_rows<T, Epilogue::add>(g, c, row, rows);
  }
}

template <class T>
void gemm_of(const GemmArgs& g) {
  using A = typename T::A;
  using B = typename T::B;
  using Acc = typename T::Acc;
  const std::int64_t inputs = round_up(g.inputs, T::kGroup);
  const auto* b = reinterpret_cast<const B*>(g.weights) + g.panel * inputs * kColumns;
  const auto* a = reinterpret_cast<const A*>(g.a.data);
  const std::int64_t lda = g.a.stride / static_cast<std::int64_t>(sizeof(A));
  auto* const c = reinterpret_cast<Acc*>(g.scratch);
  const std::int64_t block = kPanelBytes / kColumns / static_cast<std::int64_t>(sizeof(B));
  for (std::int64_t k = 0; k < inputs; k += block) {
    const std::int64_t groups = least(block, inputs - k) / T::kGroup;
    for (std::int64_t row = g.row_begin; row < g.row_end; row += kTileRows) {
      const auto rows = static_cast<int>(least(kTileRows, g.row_end - row));
      Acc* const to = c + (row - g.row_begin) * kColumns;
      // The first rows bring the weights in, the others find them there.
      if (row == g.row_begin)
        tile_rows<T, true>(rows, a + row * lda + k, lda, b + k * kColumns, groups, k == 0, to);
      else
        tile_rows<T, false>(rows, a + row * lda + k, lda, b + k * kColumns, groups, k == 0, to);
      if (k + block >= inputs) finish<T>(g, to, row, rows);
    }
  }
}

void gemm(const GemmArgs& g) {
  switch (g.precision) {
    case DType::f32:
      return gemm_of<F32>(g);
    case DType::bf16:
      return gemm_of<Bf16>(g);
    case DType::i8:
      return gemm_of<I8>(g);
  }
}

std::size_t gemm_scratch_bytes() {
  return static_cast<std::size_t>(kGemmRows + kTileRows) * kColumns * sizeof(float);
}

/// What a norm does to one row: (x - centre) * rstd * gain + bias.
struct RowNorm {
  const NormArgs norm;
  F centre = set(0);
  F rstd = set(1);

  RowNorm(const NormArgs& args, const float* x, std::int64_t n) : norm(args) {
    if (norm.kind == NormArgs::Kind::none) return;
    float mean = 0;
    if (norm.kind == NormArgs::Kind::layer) {
      F total = set(0);
      for (std::int64_t i = 0; i < n; i += kLanes) total = add(total, load_part(x + i, n - i));
      mean = sum(total) / static_cast<float>(n);
      centre = set(mean);
    }
    F square = set(0);
    for (std::int64_t i = 0; i < n; i += kLanes) {
      const F d = sub(load_part(x + i, n - i, mean), centre);
      square = fma(d, d, square);
    }
    rstd = set(1.0f / __builtin_sqrtf(sum(square) / static_cast<float>(n) + norm.eps));
  }
  F operator()(const float* x, std::int64_t i, std::int64_t n) const {
    F v = load_part(x + i, n - i);
    if (norm.kind == NormArgs::Kind::none) return v;
    v = mul(mul(sub(v, centre), rstd), load_part(norm.gain + i, n - i));
    return norm.bias ? add(v, load_part(norm.bias + i, n - i)) : v;
  }
};

void normalize(const NormArgs& norm, const float* x, std::int64_t n, float* out) {
  const RowNorm row(norm, x, n);
  for (std::int64_t i = 0; i < n; i += kLanes) store_part(out + i, row(x, i, n), n - i);
}

// Rows are padded to whole vectors: `convert` may write past n.
void prepare(DType precision, const NormArgs& norm, const float* x, std::int64_t n, const Rows& to,
             std::int64_t index) {
  const RowNorm row(norm, x, n);
  std::byte* const out = to.data + index * to.stride;
  if (precision == DType::f32) {
    auto* const a = reinterpret_cast<F32::A*>(out);
    for (std::int64_t i = 0; i < n; i += kLanes) F32::convert(row(x, i, n), a + i);
    return;
  }
  if (precision == DType::bf16) {
    auto* const a = reinterpret_cast<Bf16::A*>(out);
    for (std::int64_t i = 0; i < n; i += kLanes) Bf16::convert(row(x, i, n), a + i);
    return;
  }
  constexpr float kLargest = 127;
  F top = set(0);
  for (std::int64_t i = 0; i < n; i += kLanes) top = max(top, abs(row(x, i, n)));
  const float amax = largest(top);
  constexpr float kSmallest = 1e-30f;  // whose inverse is still finite
  const F inverse = set(amax > kSmallest ? kLargest / amax : 0.0f);
  auto* const a = reinterpret_cast<I8::A*>(out);
  I8::V total = I8::zero();
  for (std::int64_t i = 0; i < n; i += kLanes)
    total = I8::convert(mul(row(x, i, n), inverse), a + i, total);
  to.scale[index] = amax / kLargest;
  to.sum[index] = I8::sum(total);
}

template <class Element>
void project_tokens_of(const TokenArgs& t, const TokenProjection& p, std::int64_t e, float* token,
                       float* out) {
  const std::int64_t bucket = t.value[e] < t.value_buckets ? t.value[e] : t.value_buckets - 1;
  const auto rows = [&](const auto* neuron, const auto* time, const auto* value, std::int64_t width,
                        std::int64_t i) {
    return add(add(load_part(neuron + t.neuron[e] * width + i, width - i),
                   load_part(time + t.bin[e] * width + i, width - i)),
               load_part(value + bucket * width + i, width - i));
  };
  for (std::int64_t i = 0; i < t.dim; i += kLanes)
    store_part(token + i, rows(t.neuron_table, t.time_table, t.value_table, t.dim, i), t.dim - i);
  const bool layer = p.norm == NormArgs::Kind::layer;
  const RowNorm row({p.norm, nullptr, nullptr, p.eps}, token, t.dim);
  for (std::int64_t i = 0; i < p.width; i += kLanes) {
    F y =
        rows(static_cast<const Element*>(p.neuron_table), static_cast<const Element*>(p.time_table),
             static_cast<const Element*>(p.value_table), p.width, i);
    if (layer) y = sub(y, mul(row.centre, load_part(p.mean_factor + i, p.width - i)));
    y = mul(y, row.rstd);
    if (layer) y = add(y, load_part(p.bias + i, p.width - i));
    store_part(out + i, y, p.width - i);
  }
}

void project_token(const TokenArgs& t, const TokenProjection& p, std::int64_t e, float* token,
                   float* out) {
  if (p.dtype == DType::f32) return project_tokens_of<float>(t, p, e, token, out);
  project_tokens_of<std::uint16_t>(t, p, e, token, out);
}

Format format(DType precision) {
  const auto of = [](auto t, int offset) {
    using T = decltype(t);
    return Format{kColumns, T::kGroup, static_cast<int>(sizeof(typename T::A)),
                  static_cast<int>(sizeof(typename T::B)), offset};
  };
  switch (precision) {
    case DType::f32:
      return of(F32{}, 0);
    case DType::bf16:
      return of(Bf16{}, 0);
    case DType::i8:
      break;
  }
  return of(I8{}, I8::kWeightOffset);
}
