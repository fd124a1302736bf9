#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

/// Vectors of AVX2 with FMA. See simd_scalar.h for what each name means.
namespace cortex::cpu::avx2 {

constexpr int kLanes = 8;
constexpr int kVectors = 2;
constexpr int kTileRows = 6;

using F = __m256;

inline F load(const float* p) { return _mm256_loadu_ps(p); }
inline F load(const std::uint16_t* p) {
  const __m128i narrow = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(narrow), 16));
}
inline void store(float* p, F v) { _mm256_storeu_ps(p, v); }
inline __m256i first_lanes(std::int64_t n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline F load_first(const float* p, std::int64_t n) {
  return _mm256_maskload_ps(p, first_lanes(n));
}
inline void store_first(float* p, F v, std::int64_t n) {
  _mm256_maskstore_ps(p, first_lanes(n), v);
}
inline F set(float x) { return _mm256_set1_ps(x); }
inline F add(F a, F b) { return _mm256_add_ps(a, b); }
inline F sub(F a, F b) { return _mm256_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm256_mul_ps(a, b); }
inline F inverse(F a) { return _mm256_div_ps(_mm256_set1_ps(1.0f), a); }
inline F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F min(F a, F b) { return _mm256_min_ps(a, b); }
inline F abs(F a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
inline F round(F a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
inline F scale_by_power(F a, F n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
inline F zero_below(F v, F x, float limit) {
  return _mm256_and_ps(v, _mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_GE_OQ));
}
inline F floor_above(F t, float limit) { return _mm256_floor_ps(max(t, set(limit))); }
inline F fraction(F t) { return sub(max(t, set(-126)), floor_above(t, -126)); }
inline F scale_by_floor(F a, F t) {
  return zero_below(scale_by_power(a, floor_above(t, -126)), t, -126);
}
inline float sum(F a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float largest(F a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline F keep_between(F score, const std::int32_t* keys, std::int32_t low, std::int32_t high) {
  const __m256i k = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(keys));
  const __m256i out = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(low), k),
                                      _mm256_cmpgt_epi32(k, _mm256_set1_epi32(high)));
  return _mm256_blendv_ps(score, _mm256_set1_ps(-__builtin_inff()), _mm256_castsi256_ps(out));
}

inline void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }

inline void transpose(F* r) {
  F t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  // Of four rows, r[i + c] now holds column c in its lower half and 4 + c in its upper.
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    t[c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x20);
    t[4 + c] = _mm256_permute2f128_ps(r[c], r[4 + c], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) r[i] = t[i];
}

struct F32 {
  using A = float;
  using B = float;
  using Acc = float;
  using V = __m256;
  static constexpr int kGroup = 1;
  static V zero() { return _mm256_setzero_ps(); }
  static V load_acc(const Acc* p) { return _mm256_loadu_ps(p); }
  static void store_acc(Acc* p, V v) { _mm256_storeu_ps(p, v); }
  static V load_b(const B* p) { return _mm256_loadu_ps(p); }
  static V load_a(const A* p) { return _mm256_loadu_ps(p); }
  static V broadcast(const A* p) { return _mm256_broadcast_ss(p); }
  static V dot(V acc, V b, V a) { return _mm256_fmadd_ps(a, b, acc); }
  static void convert(F v, A* p) { _mm256_storeu_ps(p, v); }
  static F words(const F* inputs) { return inputs[0]; }
  static void store_words(B* p, F words) { _mm256_storeu_ps(p, words); }
  static F across(const F* rows) { return rows[0]; }
};

/// Activations are rounded to bf16 and kept as float32; weights are widened as they are loaded.
struct Bf16 : F32 {
  using B = std::uint16_t;
  static V load_b(const B* p) { return load(p); }
  static __m256i rounded(F v) {
    const __m256i word = _mm256_castps_si256(v);
    const __m256i even = _mm256_and_si256(_mm256_srli_epi32(word, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(word, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff)));
  }
  static void convert(F v, A* p) {
    const __m256i high = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    _mm256_storeu_ps(p, _mm256_castsi256_ps(_mm256_and_si256(rounded(v), high)));
  }
  static void store_words(B* p, F words) {
    const __m256i low = _mm256_srli_epi32(rounded(words), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
};

/// vpmaddubsw saturates, so both sides are widened to 16 bits and multiplied in pairs.
struct I8 {
  using A = std::int16_t;
  using B = std::int8_t;
  using Acc = std::int32_t;
  using V = __m256i;
  static constexpr int kGroup = 2;
  static constexpr std::int32_t kWeightOffset = 0;
  static V zero() { return _mm256_setzero_si256(); }
  static V load_acc(const Acc* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static void store_acc(Acc* p, V v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v); }
  static V load_b(const B* p) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static V load_a(const A* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static V broadcast(const A* p) {
    std::int32_t pair;
    std::memcpy(&pair, p, sizeof pair);
    return _mm256_set1_epi32(pair);
  }
  static V dot(V acc, V b, V a) { return _mm256_add_epi32(acc, _mm256_madd_epi16(b, a)); }
  static F to_float(const Acc* p, std::int32_t less) {
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(load_acc(p), _mm256_set1_epi32(less)));
  }
  static V convert(F v, A* p, V total) {
    const __m256i wide = _mm256_cvtps_epi32(v);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(wide, wide), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
    return _mm256_add_epi32(total, wide);
  }
  static std::int32_t sum(V v) {
    std::int32_t lanes[kLanes];
    store_acc(lanes, v);
    std::int32_t total = 0;
    for (const std::int32_t x : lanes) total += x;
    return total;
  }
};

}  // namespace cortex::cpu::avx2
