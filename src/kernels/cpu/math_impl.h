// Included by kernels_*.cpp inside the namespace of one instruction set.

constexpr float kInfinity = __builtin_inff();
constexpr float kLeastExponent = -87.0f;  // below it exp is taken for 0

inline std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
inline std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// The first n of kLanes floats or bf16, the others 0 or `fill`.
inline F load_part(const float* p, std::int64_t n) {
  return n >= kLanes ? load(p) : load_first(p, n);
}
inline F load_part(const float* p, std::int64_t n, float fill) {
  if (n >= kLanes) return load(p);
  float lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < n ? p[i] : fill;
  return load(lanes);
}
inline F load_part(const std::uint16_t* p, std::int64_t n) {
  if (n >= kLanes) return load(p);
  std::uint16_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i < n ? p[i] : 0;
  return load(lanes);
}
inline void store_part(float* p, F v, std::int64_t n) {
  if (n >= kLanes) return store(p, v);
  store_first(p, v, n);
}

/// e^x for x <= 0, to 2 ulp: x = n ln 2 + r, a Taylor polynomial of r, times 2^n.
inline F exp_negative(F x) {
  const F bounded = max(x, set(kLeastExponent));
  const F n = round(mul(bounded, set(1.44269504089f)));
  // ln 2 in two parts, so that n ln 2 is exact.
  F r = fma(n, set(-0.693359375f), bounded);
  r = fma(n, set(2.12194440e-4f), r);
  F p = set(1.0f / 5040);
  p = fma(p, r, set(1.0f / 720));
  p = fma(p, r, set(1.0f / 120));
  p = fma(p, r, set(1.0f / 24));
  p = fma(p, r, set(1.0f / 6));
  p = fma(p, r, set(0.5f));
  p = fma(p, r, set(1.0f));
  p = fma(p, r, set(1.0f));
  return zero_below(scale_by_power(p, n), x, kLeastExponent);
}

/// 2^t for t <= 0, to 1 part in 10^4: less than bf16 tells apart. A fit of 2^f, 0 <= f < 1.
inline F exp2_narrow(F t) {
  const F f = fraction(t);
  F p = set(0.0780245168f);
  p = fma(p, f, set(0.226067164f));
  p = fma(p, f, set(0.695833538f));
  p = fma(p, f, set(0.999925219f));
  return scale_by_floor(p, t);
}

/// x/2 (1 + erf(x / sqrt 2)). erf(u) = u P(t) / Q(t) with t = u^2/16 and |u| <= 4, a rational fit
/// of largest error 4e-7 in float32.
inline F gelu(F x) {
  const F u = max(min(mul(x, set(0.70710678118654752f)), set(4.0f)), set(-4.0f));
  const F t = mul(mul(u, u), set(0.0625f));
  F p = set(2.070756673812866f);
  p = fma(p, t, set(18.876895904541016f));
  p = fma(p, t, set(16.39864158630371f));
  p = fma(p, t, set(13.687621116638184f));
  p = fma(p, t, set(3.1399595737457275f));
  p = fma(p, t, set(1.128378987312317f));
  F q = set(39.30134582519531f);
  q = fma(q, t, set(79.71405792236328f));
  q = fma(q, t, set(63.25979232788086f));
  q = fma(q, t, set(29.81780242919922f));
  q = fma(q, t, set(8.116015434265137f));
  q = fma(q, t, set(1.0f));
  const F half = mul(x, set(0.5f));
  return fma(half, mul(mul(u, p), inverse(q)), half);
}

/// The same to 4e-5 + 2e-6 |x|, for results that become bf16 or int8. Where |x| <= 4.4 it is
/// x (1/2 + x P(x^2)), with P fitted so that both sides meet 0 and x there.
inline F gelu_narrow(F x) {
  const F u = max(min(x, set(4.4f)), set(-4.4f));
  const F t = mul(u, u);
  F p = set(3.56942611e-11f);
  p = fma(p, t, set(-3.75404653e-09f));
  p = fma(p, t, set(1.74084651e-07f));
  p = fma(p, t, set(-4.72486683e-06f));
  p = fma(p, t, set(8.42930031e-05f));
  p = fma(p, t, set(-0.00105499243f));
  p = fma(p, t, set(0.00964302787f));
  p = fma(p, t, set(-0.0660764301f));
  p = fma(p, t, set(0.39876161f));
  return mul(x, fma(u, p, set(0.5f)));
}
