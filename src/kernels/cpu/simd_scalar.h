#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

/// Vectors in plain C++, for any machine: what the kernels are written over.
///
/// F is a vector of kLanes floats. A tile of a matrix product is kTileRows rows by kVectors
/// vectors. F32, Bf16 and I8 are the ways to multiply: A is how an activation is stored, B how a
/// weight is, and each B vector holds kGroup consecutive inputs of every column. `convert` rounds
/// activations to A, and `load_a` takes as many of them as `load_b` takes weights. What the inputs
/// of a group take up in B is a word: `words` narrows kGroup vectors of consecutive inputs to
/// kLanes words, `across` makes kLanes words of the same inputs of kGroup rows, and `store_words`
/// stores words as B.
namespace cortex::cpu::scalar {

constexpr int kLanes = 4;
constexpr int kVectors = 4;
constexpr int kTileRows = 4;

template <class T>
struct Lanes {
  T v[kLanes];
};
using F = Lanes<float>;

template <class T, class Op>
inline Lanes<T> each(Op op) {
  Lanes<T> out;
  for (int i = 0; i < kLanes; ++i) out.v[i] = op(i);
  return out;
}

inline F load(const float* p) {
  return each<float>([&](int i) { return p[i]; });
}
/// bf16, widened.
inline F load(const std::uint16_t* p) {
  return each<float>([&](int i) {
    const std::uint32_t word = static_cast<std::uint32_t>(p[i]) << 16;
    float x;
    std::memcpy(&x, &word, sizeof x);
    return x;
  });
}
inline void store(float* p, F a) { std::memcpy(p, a.v, sizeof a.v); }
/// The first n lanes, n below kLanes and perhaps below 0; the others are 0 or left alone.
inline F load_first(const float* p, std::int64_t n) {
  return each<float>([&](int i) { return i < n ? p[i] : 0.0f; });
}
inline void store_first(float* p, F a, std::int64_t n) {
  for (int i = 0; i < kLanes && i < n; ++i) p[i] = a.v[i];
}
inline F set(float x) {
  return each<float>([&](int) { return x; });
}
inline F add(F a, F b) {
  return each<float>([&](int i) { return a.v[i] + b.v[i]; });
}
inline F sub(F a, F b) {
  return each<float>([&](int i) { return a.v[i] - b.v[i]; });
}
inline F mul(F a, F b) {
  return each<float>([&](int i) { return a.v[i] * b.v[i]; });
}
inline F inverse(F a) {
  return each<float>([&](int i) { return 1 / a.v[i]; });
}
inline F fma(F a, F b, F c) {
  return each<float>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F max(F a, F b) {
  return each<float>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F min(F a, F b) {
  return each<float>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F abs(F a) {
  return each<float>([&](int i) { return std::fabs(a.v[i]); });
}
inline F round(F a) {
  return each<float>([&](int i) { return std::nearbyint(a.v[i]); });
}
/// a * 2^n, n whole and in [-126, 127].
inline F scale_by_power(F a, F n) {
  return each<float>([&](int i) { return std::ldexp(a.v[i], static_cast<int>(n.v[i])); });
}
/// v where x is at least `limit`, elsewhere 0.
inline F zero_below(F v, F x, float limit) {
  return each<float>([&](int i) { return x.v[i] >= limit ? v.v[i] : 0.0f; });
}
/// t - floor(t), t <= 0; some number in [0, 1) where scale_by_floor returns 0.
inline F fraction(F t) {
  return each<float>([&](int i) {
    const float bounded = t.v[i] > -126 ? t.v[i] : -126;
    return bounded - std::floor(bounded);
  });
}
/// a * 2^floor(t), t <= 0; 0 where that is next to nothing.
inline F scale_by_floor(F a, F t) {
  return each<float>([&](int i) {
    return t.v[i] >= -126 ? std::ldexp(a.v[i], static_cast<int>(std::floor(t.v[i]))) : 0.0f;
  });
}
/// Of all lanes, pairwise.
inline float sum(F a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
inline float largest(F a) {
  float top = a.v[0];
  for (const float x : a.v) top = x > top ? x : top;
  return top;
}
/// Lanes whose key lies in [low, high] keep their score, the others become -inf.
inline F keep_between(F score, const std::int32_t* keys, std::int32_t low, std::int32_t high) {
  return each<float>(
      [&](int i) { return low <= keys[i] && keys[i] <= high ? score.v[i] : -__builtin_inff(); });
}

inline void prefetch(const void*) {}

/// Rows become columns.
inline void transpose(F* rows) {
  for (int i = 0; i < kLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const float x = rows[i].v[j];
      rows[i].v[j] = rows[j].v[i];
      rows[j].v[i] = x;
    }
  }
}

struct F32 {
  using A = float;
  using B = float;
  using Acc = float;
  using V = F;
  static constexpr int kGroup = 1;
  static V zero() { return set(0); }
  static V load_acc(const Acc* p) { return load(p); }
  static void store_acc(Acc* p, V v) { store(p, v); }
  static V load_b(const B* p) { return load(p); }
  static V load_a(const A* p) { return load(p); }
  static V broadcast(const A* p) { return set(*p); }
  static V dot(V acc, V b, V a) { return fma(a, b, acc); }
  static void convert(F v, A* p) { store(p, v); }
  static F words(const F* inputs) { return inputs[0]; }
  static void store_words(B* p, F words) { store(p, words); }
  static F across(const F* rows) { return rows[0]; }
};

struct Bf16 : F32 {
  using B = std::uint16_t;
  static V load_b(const B* p) { return load(p); }
  static std::uint32_t rounded(float x) {
    std::uint32_t word;
    std::memcpy(&word, &x, sizeof word);
    return word + 0x7fff + (word >> 16 & 1);
  }
  static void convert(F v, A* p) {
    for (int i = 0; i < kLanes; ++i) {
      const std::uint32_t word = rounded(v.v[i]) & 0xffff0000u;
      std::memcpy(p + i, &word, sizeof word);
    }
  }
  static void store_words(B* p, F words) {
    for (int i = 0; i < kLanes; ++i) p[i] = static_cast<B>(rounded(words.v[i]) >> 16);
  }
};

struct I8 {
  using A = std::int8_t;
  using B = std::int8_t;
  using Acc = std::int32_t;
  using V = Lanes<std::int32_t>;
  static constexpr int kGroup = 1;
  static constexpr std::int32_t kWeightOffset = 0;
  static V zero() {
    return each<std::int32_t>([](int) { return 0; });
  }
  static V load_acc(const Acc* p) {
    return each<std::int32_t>([&](int i) { return p[i]; });
  }
  static void store_acc(Acc* p, V v) { std::memcpy(p, v.v, sizeof v.v); }
  static V load_b(const B* p) {
    return each<std::int32_t>([&](int i) { return p[i]; });
  }
  static V load_a(const A* p) { return load_b(p); }
  static V broadcast(const A* p) {
    return each<std::int32_t>([&](int) { return *p; });
  }
  static V dot(V acc, V b, V a) {
    return each<std::int32_t>([&](int i) { return acc.v[i] + a.v[i] * b.v[i]; });
  }
  static F to_float(const Acc* p, std::int32_t less) {
    return each<float>([&](int i) { return static_cast<float>(p[i] - less); });
  }
  static V convert(F v, A* p, V total) {
    for (int i = 0; i < kLanes; ++i) {
      const auto whole = static_cast<std::int32_t>(std::nearbyint(v.v[i]));
      p[i] = static_cast<A>(whole);
      total.v[i] += whole;
    }
    return total;
  }
  static std::int32_t sum(V v) { return v.v[0] + v.v[1] + v.v[2] + v.v[3]; }
};

}  // namespace cortex::cpu::scalar
