#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "core/json_writer.h"
#include "tensor/tensor.h"

/// What this machine can do at most, measured in the run that asks.
///
///     const Ceilings c = measure_ceilings({.threads = 2});
///     const double floor_s = flops / (c.gflops(DType::i8) * 1e9);
namespace cortex {

struct CeilingOptions {
  int threads = 1;
  std::string isa;  ///< "" = best of "avx512", "avx2", "scalar"
};

/// Sustained reads of a footprint again and again, all threads together.
struct ReadCeiling {
  std::string level;         ///< "l2", "l3_6mb", "l3_22mb", "far_64mb", "dram"
  double mb_per_thread = 0;  ///< 1e6 bytes
  double gb_s = 0;
};

struct Ceilings {
  int threads = 1;
  std::string isa;
  double fp32_gflops = 0;          ///< FMA
  double bf16_gflops = 0;          ///< vdpbf16ps; on AVX2 an FMA of widened values, so that of fp32
  double int8_gops = 0;            ///< vpdpbusd; on AVX2 vpmaddwd of widened values
  std::vector<ReadCeiling> reads;  ///< ascending in size

  /// The fastest way to multiply what is stored so.
  double gflops(DType dtype) const;
  /// Of `bytes` that are read again and again: between two measured sizes the bandwidth changes
  /// evenly with the logarithm of a thread's share; the level is that of the larger one.
  ReadCeiling read_of(double bytes) const;
  void write(JsonWriter& w) const;  ///< one JSON object
};

/// Takes about a second. Throws Exception (unsupported) for an ISA that this machine lacks.
Ceilings measure_ceilings(const CeilingOptions& options);

/// Loops that saturate one execution resource.
struct PeakKernel {
  void (*run)(std::int64_t iterations) = nullptr;
  double operations = 0;  ///< an iteration: a multiply and an add are two
};
struct CeilingKernels {
  const char* isa = nullptr;
  PeakKernel fp32;
  PeakKernel bf16;
  PeakKernel int8;
  /// Reads `bytes`, a multiple of 1024 on a 64-byte boundary.
  void (*read)(const std::byte* data, std::size_t bytes) = nullptr;
};
CeilingKernels ceiling_kernels(const std::string& isa);

}  // namespace cortex
