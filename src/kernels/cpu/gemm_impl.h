// Included by kernels_*.cpp inside the namespace of one instruction set.

constexpr int kColumns = kLanes * kVectors;
constexpr std::int64_t kPanelBytes = 32 << 10;  // of weights that one pass keeps in the first cache
constexpr std::int64_t kPrefetchBytes = 16384;

template <class T>
constexpr bool kFloat32 = false;
template <>
constexpr bool kFloat32<F32> = true;

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
      if (kEpilogue == Epilogue::gelu) y = kFloat32<T> ? gelu(y) : gelu_narrow(y);
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

/// Each result is the sum of a vector's lanes, which have each summed their inputs in their order.
template <class T>
void dot_rows(const GemmArgs& g) {
  constexpr bool kInteger = requires { T::kWeightOffset; };
  constexpr std::int64_t kStep = kLanes * T::kGroup;
  static_assert(kRowPadding % kStep == 0);
  const std::int64_t inputs = padded_inputs(g.inputs);
  const auto* const weights = reinterpret_cast<const typename T::B*>(g.weights);
  auto* const sums = reinterpret_cast<typename T::Acc*>(g.scratch);
  for (std::int64_t row = g.row_begin; row < g.row_end; ++row) {
    const auto* const a = reinterpret_cast<const typename T::A*>(g.a.data + row * g.a.stride);
    for (std::int64_t o = 0; o < g.outputs; ++o) {
      const typename T::B* const b = weights + o * inputs;
      typename T::V acc = T::zero();
      for (std::int64_t i = 0; i < inputs; i += kStep)
        acc = T::dot(acc, T::load_b(b + i), T::load_a(a + i));
      if constexpr (kInteger)
        sums[o] = T::sum(acc);
      else
        sums[o] = sum(acc);
    }
    finish<T>(g, sums, row, 1);
  }
}

template <class T>
void gemm_of(const GemmArgs& g) {
  if (g.few_outputs) return dot_rows<T>(g);
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

/// Calls body(i, width) for every vector of n floats; `width` says how many of them there are.
template <class Body>
inline void each_vector(std::int64_t n, Body&& body) {
  std::int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, std::int64_t{kLanes});
  if (i < n) body(i, n - i);
}

/// Folds n floats, body(sum, i, width), in several chains, whose latencies overlap.
template <class Join, class Body>
inline F fold(std::int64_t n, Join&& join, Body&& body) {
  constexpr int kChains = 4;
  F chains[kChains] = {set(0), set(0), set(0), set(0)};
  std::int64_t i = 0;
  for (; i + kChains * kLanes <= n; i += kChains * kLanes)
#pragma GCC unroll 4
    for (int c = 0; c < kChains; ++c)
      chains[c] = body(chains[c], i + c * kLanes, std::int64_t{kLanes});
  for (; i < n; i += kLanes) chains[0] = body(chains[0], i, n - i);
  return join(join(chains[0], chains[1]), join(chains[2], chains[3]));
}

/// What a norm does to one row: shape(x) * factor.
template <NormArgs::Kind kKind>
struct RowNorm {
  const NormArgs& norm;
  F centre = set(0);
  F rstd = set(1);
  float factor = 1;

  RowNorm(const NormArgs& args, const float* x, std::int64_t n) : norm(args) {
    if (kKind == NormArgs::Kind::none) return;
    float mean = 0;
    if (kKind == NormArgs::Kind::layer) {
      mean = sum(fold(n, add,
                      [&](F total, std::int64_t i, std::int64_t width) {
                        return add(total, load_part(x + i, width));
                      })) /
             static_cast<float>(n);
      centre = set(mean);
    }
    const F square = fold(n, add, [&](F total, std::int64_t i, std::int64_t width) {
      F d = load_part(x + i, width);
      if (kKind == NormArgs::Kind::layer) d = sub(load_part(x + i, width, mean), centre);
      return fma(d, d, total);
    });
    const float root = __builtin_sqrtf(sum(square) / static_cast<float>(n) + norm.eps);
    rstd = set(1.0f / root);
    if (kKind == NormArgs::Kind::rms) factor = 1.0f / root;
  }
  F shape(const float* x, std::int64_t i, std::int64_t width) const {
    const F v = load_part(x + i, width);
    if (kKind == NormArgs::Kind::none) return v;
    const F gain = load_part(norm.gain + i, width);
    if (kKind == NormArgs::Kind::rms) return mul(v, gain);
    const F scaled = mul(mul(sub(v, centre), rstd), gain);
    return norm.bias ? add(scaled, load_part(norm.bias + i, width)) : scaled;
  }
  F operator()(const float* x, std::int64_t i, std::int64_t width) const {
    const F v = shape(x, i, width);
    return kKind == NormArgs::Kind::rms ? mul(v, rstd) : v;
  }
};

/// Calls f with the norm of a row.
template <class Call>
void with_norm(const NormArgs& norm, const float* x, std::int64_t n, Call&& f) {
  switch (norm.kind) {
    case NormArgs::Kind::none:
      return f(RowNorm<NormArgs::Kind::none>(norm, x, n));
    case NormArgs::Kind::rms:
      return f(RowNorm<NormArgs::Kind::rms>(norm, x, n));
    case NormArgs::Kind::layer:
      return f(RowNorm<NormArgs::Kind::layer>(norm, x, n));
  }
}

void normalize(const NormArgs& norm, const float* x, std::int64_t n, float* out) {
  with_norm(norm, x, n, [&](const auto& row) {
    each_vector(n, [&](std::int64_t i, std::int64_t width) {
      store_part(out + i, row(x, i, width), width);
    });
  });
}

template <class T, class Row>
void round_row(const Row& row, const float* x, std::int64_t n, typename T::A* a) {
  each_vector(n, [&](std::int64_t i, std::int64_t width) { T::convert(row(x, i, width), a + i); });
  for (std::int64_t i = round_up(n, kLanes); i < padded_inputs(n); i += kLanes)
    T::convert(set(0), a + i);
}

template <class Row>
void quantize_row(const Row& row, const float* x, std::int64_t n, const Rows& to,
                  std::int64_t index) {
  constexpr float kLargest = 127;
  const float top = largest(fold(n, max, [&](F high, std::int64_t i, std::int64_t width) {
    return max(high, abs(row.shape(x, i, width)));
  }));
  constexpr float kSmallest = 1e-30f;  // whose inverse is still finite
  const F inverse = set(top > kSmallest ? kLargest / top : 0.0f);
  auto* const a = reinterpret_cast<I8::A*>(to.data + index * to.stride);
  I8::V total = I8::zero();
  each_vector(n, [&](std::int64_t i, std::int64_t width) {
    total = I8::convert(mul(row.shape(x, i, width), inverse), a + i, total);
  });
  for (std::int64_t i = round_up(n, kLanes); i < padded_inputs(n); i += kLanes)
    total = I8::convert(set(0), a + i, total);
  to.scale[index] = top / kLargest * row.factor;
  to.sum[index] = I8::sum(total);
}

void prepare(DType precision, const NormArgs& norm, const float* x, std::int64_t n, const Rows& to,
             std::int64_t index) {
  with_norm(norm, x, n, [&](const auto& row) {
    std::byte* const out = to.data + index * to.stride;
    if (precision == DType::f32) return round_row<F32>(row, x, n, reinterpret_cast<F32::A*>(out));
    if (precision == DType::bf16)
      return round_row<Bf16>(row, x, n, reinterpret_cast<Bf16::A*>(out));
    quantize_row(row, x, n, to, index);
  });
}

template <class Element>
void project_tokens_of(const TokenArgs& t, const TokenProjection& p, std::int64_t e, float* token,
                       float* out) {
  const std::int64_t bucket = t.value[e] < t.value_buckets ? t.value[e] : t.value_buckets - 1;
  const std::int64_t next = e + 1 < t.events ? e + 1 : e;
  const auto rows = [&](const auto* neuron, const auto* time, const auto* value,
                        std::int64_t length, std::int64_t i, std::int64_t width) {
    // Rows lie anywhere: no hardware foresees the next event's.
    prefetch(neuron + t.neuron[next] * length + i);
    prefetch(time + t.bin[next] * length + i);
    return add(add(load_part(neuron + t.neuron[e] * length + i, width),
                   load_part(time + t.bin[e] * length + i, width)),
               load_part(value + bucket * length + i, width));
  };
  each_vector(t.dim, [&](std::int64_t i, std::int64_t width) {
    store_part(token + i, rows(t.neuron_table, t.time_table, t.value_table, t.dim, i, width),
               width);
  });
  const bool layer = p.norm == NormArgs::Kind::layer;
  with_norm({p.norm, nullptr, nullptr, p.eps}, token, t.dim, [&](const auto& row) {
    each_vector(p.width, [&](std::int64_t i, std::int64_t width) {
      F y = rows(static_cast<const Element*>(p.neuron_table),
                 static_cast<const Element*>(p.time_table),
                 static_cast<const Element*>(p.value_table), p.width, i, width);
      if (layer) y = sub(y, mul(row.centre, load_part(p.mean_factor + i, width)));
      y = mul(y, row.rstd);
      if (layer) y = add(y, load_part(p.bias + i, width));
      store_part(out + i, y, width);
    });
  });
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
