#include <cortex/result.h>

#include "bench_ceilings.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cortex {
namespace {

// Two pipes times a latency of up to 6 cycles, within the registers there are.
constexpr int kSums = 16;
constexpr int kSums256 = 12;
constexpr std::size_t kLine = 64;
constexpr std::size_t kLinesAtOnce = 16;

/// The compiler must believe that `value` changed here: equal sums would become one. `bound` is the
/// register class of the type.
#define CORTEX_OPAQUE(bound, value) __asm__ volatile("" : "+" bound(value))

void fp32_scalar(std::int64_t iterations) {
  float sums[kSums];
  float a = 0.5f;
  for (float& sum : sums) sum = 1;
  for (std::int64_t n = 0; n < iterations; ++n) {
    for (float& sum : sums) sum = sum * a + a;
    __asm__ volatile("" : : "r"(sums) : "memory");
  }
}

void int8_scalar(std::int64_t iterations) {
  std::int32_t sums[kSums] = {};
  std::int8_t a[kSums] = {1, 2, 3};
  for (std::int64_t n = 0; n < iterations; ++n) {
    for (int i = 0; i < kSums; ++i) sums[i] += a[i] * a[kSums - 1 - i];
    __asm__ volatile("" : : "r"(sums), "r"(a) : "memory");
  }
}

void read_scalar(const std::byte* data, std::size_t bytes) {
  const auto* words = reinterpret_cast<const std::uint64_t*>(data);
  std::uint64_t sums[8] = {};
  for (std::size_t i = 0; i < bytes / sizeof *words; i += 8)
    for (std::size_t j = 0; j < 8; ++j) sums[j] += words[i + j];
  __asm__ volatile("" : : "r"(sums) : "memory");
}

#if defined(__x86_64__)
#define CORTEX_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16,avx512vnni")))
#define CORTEX_AVX2 __attribute__((target("avx2,fma")))

CORTEX_AVX512 void fp32_avx512(std::int64_t iterations) {
  __m512 sums[kSums];
  __m512 a = _mm512_set1_ps(0.5f);
  CORTEX_OPAQUE("v", a);
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) {
    sums[i] = _mm512_set1_ps(1);
    CORTEX_OPAQUE("v", sums[i]);
  }
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_fmadd_ps(a, a, sums[i]);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) CORTEX_OPAQUE("v", sums[i]);
}

CORTEX_AVX512 void bf16_avx512(std::int64_t iterations) {
  __m512 sums[kSums];
  __m512i bits = _mm512_set1_epi32(0x3f003f00);
  CORTEX_OPAQUE("v", bits);
  const auto a = reinterpret_cast<__m512bh>(bits);
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) {
    sums[i] = _mm512_set1_ps(1);
    CORTEX_OPAQUE("v", sums[i]);
  }
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, a);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) CORTEX_OPAQUE("v", sums[i]);
}

CORTEX_AVX512 void int8_avx512(std::int64_t iterations) {
  __m512i sums[kSums];
  __m512i a = _mm512_set1_epi8(3);
  CORTEX_OPAQUE("v", a);
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) {
    sums[i] = _mm512_setzero_si512();
    CORTEX_OPAQUE("v", sums[i]);
  }
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], a, a);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSums; ++i) CORTEX_OPAQUE("v", sums[i]);
}

CORTEX_AVX512 void read_avx512(const std::byte* data, std::size_t bytes) {
  __m512i sums[kLinesAtOnce];
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kLinesAtOnce; ++i) sums[i] = _mm512_setzero_si512();
  for (std::size_t at = 0; at < bytes; at += kLinesAtOnce * kLine) {
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kLinesAtOnce; ++i)
      sums[i] = _mm512_xor_si512(sums[i], _mm512_load_si512(data + at + i * kLine));
  }
#pragma GCC unroll 16
  for (std::size_t i = 0; i < kLinesAtOnce; ++i) CORTEX_OPAQUE("v", sums[i]);
}

CORTEX_AVX2 void fp32_avx2(std::int64_t iterations) {
  __m256 sums[kSums256];
  __m256 a = _mm256_set1_ps(0.5f);
  CORTEX_OPAQUE("x", a);
#pragma GCC unroll 12
  for (int i = 0; i < kSums256; ++i) {
    sums[i] = _mm256_set1_ps(1);
    CORTEX_OPAQUE("x", sums[i]);
  }
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums256; ++i) sums[i] = _mm256_fmadd_ps(a, a, sums[i]);
  }
#pragma GCC unroll 12
  for (int i = 0; i < kSums256; ++i) CORTEX_OPAQUE("x", sums[i]);
}

CORTEX_AVX2 void int8_avx2(std::int64_t iterations) {
  __m256i sums[kSums256];
  __m256i a = _mm256_set1_epi16(3);
#pragma GCC unroll 12
  for (int i = 0; i < kSums256; ++i) {
    sums[i] = _mm256_setzero_si256();
    CORTEX_OPAQUE("x", sums[i]);
  }
  for (std::int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums256; ++i) {
      CORTEX_OPAQUE("x", a);  // else one product serves all sums
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(a, a));
    }
  }
#pragma GCC unroll 12
  for (int i = 0; i < kSums256; ++i) CORTEX_OPAQUE("x", sums[i]);
}

CORTEX_AVX2 void read_avx2(const std::byte* data, std::size_t bytes) {
  __m256i sums[8];
#pragma GCC unroll 8
  for (std::size_t i = 0; i < 8; ++i) sums[i] = _mm256_setzero_si256();
  for (std::size_t at = 0; at < bytes; at += 8 * 32) {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < 8; ++i)
      sums[i] = _mm256_xor_si256(
          sums[i], _mm256_load_si256(reinterpret_cast<const __m256i*>(data + at + i * 32)));
  }
#pragma GCC unroll 8
  for (std::size_t i = 0; i < 8; ++i) CORTEX_OPAQUE("x", sums[i]);
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bf16") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#undef CORTEX_OPAQUE

}  // namespace

CeilingKernels ceiling_kernels(const std::string& isa) {
#if defined(__x86_64__)
  if ((isa.empty() || isa == "avx512") && has_avx512())
    return {"avx512",
            {fp32_avx512, 2.0 * 16 * kSums},
            {bf16_avx512, 2.0 * 32 * kSums},
            {int8_avx512, 2.0 * 64 * kSums},
            read_avx512};
  if ((isa.empty() || isa == "avx2") && has_avx2())
    return {"avx2",
            {fp32_avx2, 2.0 * 8 * kSums256},
            {fp32_avx2, 2.0 * 8 * kSums256},
            {int8_avx2, 2.0 * 16 * kSums256},
            read_avx2};
#endif
  if (isa.empty() || isa == "scalar")
    return {"scalar",
            {fp32_scalar, 2.0 * kSums},
            {fp32_scalar, 2.0 * kSums},
            {int8_scalar, 2.0 * kSums},
            read_scalar};
  throw Exception{{ErrorCode::unsupported, "this machine has no " + isa, "isa"}};
}

}  // namespace cortex
