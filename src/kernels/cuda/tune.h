#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "kernels/cuda/gemm_table.h"

namespace cortex::cuda {

/// A linear of a model at one number of rows. Times are of a call within a CUDA graph,
/// microseconds.
struct GemmTiming {
  GemmTableEntry best;
  std::string linear;                ///< "qkv", "out", "up" or "down"
  int dim = 0;                       ///< of the model
  double us = 0;                     ///< of `best`
  std::optional<double> product_us;  ///< cuBLASLt's product alone; none where it has none
  std::optional<double> pass_us;     ///< the pass over rows that our kernel saves beside it
};

struct GemmTuning {
  std::string peer;  ///< "cuBLASLt 13.0.2", empty where there is none
  std::vector<GemmTiming> timings;
};

struct TuneOptions {
  double seconds = 0.01;  ///< of samples of one tiling that may be the fastest
  std::function<void(const std::string&)> progress = {};  ///< what comes next
};

/// Times every tiling for the linears of cortex-xs, -s and -m. DeviceError where the GPU fails or
/// is not a Hopper, std::bad_alloc where its memory does not suffice.
GemmTuning tune(int device, const TuneOptions& options);

}  // namespace cortex::cuda
