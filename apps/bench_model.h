#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/ops.h"
#include "model/weights.h"

namespace cortex {

/// The backend that benchmarks time; `isa` as in CpuOptions.
std::unique_ptr<Ops> make_bench_ops(int threads, const std::string& isa = {});

/// "fp32", "bf16" or "int8", as flags and reports say it.
DType precision_of(const std::string& name);

/// `model` with the linears that a forward multiplies by in another precision: rounded to bf16, or
/// int8 with a scale a row from its largest magnitude. A stream's head stays float32.
ModelFile with_precision(ModelFile model, DType precision);

/// A preset with random weights, and for a stream with `units` units. A benchmark asks for it by
/// name; nothing else may.
ModelFile random_preset(const std::string& preset, DType precision, int units, std::uint64_t seed);

}  // namespace cortex
