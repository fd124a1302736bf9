#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

/// Vectors of AVX-512 with VNNI, and with BF16 where CORTEX_NATIVE_BF16 is set. See simd_scalar.h
/// for what each name means.
namespace cortex::cpu::CORTEX_ISA {

constexpr int kLanes = 16;
constexpr int kVectors = 4;
constexpr int kTileRows = 6;

using F = __m512;

inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline F load(const std::uint16_t* p) {
  const __m256i narrow = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(narrow), 16));
}
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline __mmask16 first_lanes(std::int64_t n) {
  return n > 0 ? static_cast<__mmask16>((1u << n) - 1) : __mmask16{0};
}
inline F load_first(const float* p, std::int64_t n) {
  return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
inline void store_first(float* p, F v, std::int64_t n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), v);
}
inline F set(float x) { return _mm512_set1_ps(x); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
/// 1 / a to 2 ulp, a of ordinary size: a table's 14 bits, doubled by a step of Newton's.
inline F inverse(F a) {
  const F r = _mm512_rcp14_ps(a);
  return _mm512_mul_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(2.0f)));
}
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F min(F a, F b) { return _mm512_min_ps(a, b); }
inline F abs(F a) { return _mm512_abs_ps(a); }
inline F round(F a) {
  return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline F scale_by_power(F a, F n) { return _mm512_scalef_ps(a, n); }
inline F fraction(F t) { return _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); }
inline F scale_by_floor(F a, F t) { return _mm512_scalef_ps(a, t); }
inline F zero_below(F v, F x, float limit) {
  return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_GE_OQ), v);
}
inline float sum(F a) { return _mm512_reduce_add_ps(a); }
inline float largest(F a) { return _mm512_reduce_max_ps(a); }
/// Lanes whose key lies in [low, high] keep their score, the others become -inf.
inline F keep_between(F score, const std::int32_t* keys, std::int32_t low, std::int32_t high) {
  const __m512i k = _mm512_loadu_si512(keys);
  const __mmask16 keep = _mm512_cmple_epi32_mask(_mm512_set1_epi32(low), k) &
                         _mm512_cmple_epi32_mask(k, _mm512_set1_epi32(high));
  return _mm512_mask_blend_ps(keep, _mm512_set1_ps(-__builtin_inff()), score);
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

/// Rows become columns.
inline void transpose(F* r) {
  F t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  const auto low = [&](int i, int j) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[j])));
  };
  const auto high = [&](int i, int j) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(t[i]), _mm512_castps_pd(t[j])));
  };
  // Of four rows, r[i + c] now holds column 4 k + c in its part k.
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = low(i, i + 2);
    r[i + 1] = high(i, i + 2);
    r[i + 2] = low(i + 1, i + 3);
    r[i + 3] = high(i + 1, i + 3);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const F even_a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
    const F even_b = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    const F odd_a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    const F odd_b = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
    t[c] = _mm512_shuffle_f32x4(even_a, even_b, 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(odd_a, odd_b, 0x88);
    t[8 + c] = _mm512_shuffle_f32x4(even_a, even_b, 0xdd);
    t[12 + c] = _mm512_shuffle_f32x4(odd_a, odd_b, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) r[i] = t[i];
}

struct F32 {
  using A = float;
  using B = float;
  using Acc = float;
  using V = __m512;
  static constexpr int kGroup = 1;
  static V zero() { return _mm512_setzero_ps(); }
  static V load_acc(const Acc* p) { return _mm512_loadu_ps(p); }
  static void store_acc(Acc* p, V v) { _mm512_storeu_ps(p, v); }
  static V load_b(const B* p) { return _mm512_loadu_ps(p); }
  static V load_a(const A* p) { return _mm512_loadu_ps(p); }
  static V broadcast(const A* p) { return _mm512_set1_ps(*p); }
  static V dot(V acc, V b, V a) { return _mm512_fmadd_ps(a, b, acc); }
  static void convert(F v, A* p) { _mm512_storeu_ps(p, v); }
  static F words(const F* inputs) { return inputs[0]; }
  static void store_words(B* p, F words) { _mm512_storeu_ps(p, words); }
  static F across(const F* rows) { return rows[0]; }
};

#if CORTEX_NATIVE_BF16
struct Bf16 {
  using A = std::uint16_t;
  using B = std::uint16_t;
  using Acc = float;
  using V = __m512;
  static constexpr int kGroup = 2;
  static V zero() { return _mm512_setzero_ps(); }
  static V load_acc(const Acc* p) { return _mm512_loadu_ps(p); }
  static void store_acc(Acc* p, V v) { _mm512_storeu_ps(p, v); }
  static __m512bh load_b(const B* p) { return (__m512bh)_mm512_loadu_si512(p); }
  static __m512bh load_a(const A* p) { return load_b(p); }
  static __m512bh broadcast(const A* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return (__m512bh)_mm512_set1_epi32(pair);
  }
  static V dot(V acc, __m512bh b, __m512bh a) { return _mm512_dpbf16_ps(acc, a, b); }
  static void convert(F v, A* p) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(v));
  }
  static F words(const F* inputs) { return (F)_mm512_cvtne2ps_pbh(inputs[1], inputs[0]); }
  static void store_words(B* p, F words) { _mm512_storeu_ps(p, words); }
  static F across(const F* rows) {
    const auto wide = [](F v) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v)); };
    return _mm512_castsi512_ps(
        _mm512_or_si512(wide(rows[0]), _mm512_slli_epi32(wide(rows[1]), 16)));
  }
};

#else
/// Activations are rounded to bf16 and kept as float32; weights are widened as they are loaded.
struct Bf16 : F32 {
  using B = std::uint16_t;
  static V load_b(const B* p) { return load(p); }
  static __m512i rounded(F v) {
    const __m512i word = _mm512_castps_si512(v);
    const __m512i even = _mm512_and_si512(_mm512_srli_epi32(word, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(word, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff)));
  }
  static void convert(F v, A* p) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    _mm512_storeu_ps(p, _mm512_castsi512_ps(_mm512_and_si512(rounded(v), high)));
  }
  static void store_words(B* p, F words) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded(words), 16)));
  }
};
#endif

struct I8 {
  using A = std::int8_t;
  using B = std::uint8_t;  // weight + 128: the instruction wants one side unsigned
  using Acc = std::int32_t;
  using V = __m512i;
  static constexpr int kGroup = 4;
  static constexpr std::int32_t kWeightOffset = 128;
  static V zero() { return _mm512_setzero_si512(); }
  static V load_acc(const Acc* p) { return _mm512_loadu_si512(p); }
  static void store_acc(Acc* p, V v) { _mm512_storeu_si512(p, v); }
  static V load_b(const B* p) { return _mm512_loadu_si512(p); }
  static V load_a(const A* p) { return _mm512_loadu_si512(p); }
  static V broadcast(const A* p) {
    std::int32_t four;
    std::memcpy(&four, p, sizeof four);
    return _mm512_set1_epi32(four);
  }
  static V dot(V acc, V b, V a) { return _mm512_dpbusd_epi32(acc, b, a); }
  static F to_float(const Acc* p, std::int32_t less) {
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(p), _mm512_set1_epi32(less)));
  }
  /// Rounds to nearest even, stores, and adds what was stored to `total`.
  static V convert(F v, A* p, V total) {
    const __m512i wide = _mm512_cvtps_epi32(v);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(wide));
    return _mm512_add_epi32(total, wide);
  }
  static std::int32_t sum(V v) { return _mm512_reduce_add_epi32(v); }
};

}  // namespace cortex::cpu::CORTEX_ISA
