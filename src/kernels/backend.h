#pragma once

#include <cortex/result.h>

#include <memory>
#include <string>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/ops.h"

namespace cortex {

/// A backend that was chosen, and what to call it.
struct Backend {
  std::unique_ptr<Ops> ops;
  std::string name;  ///< "cpu avx512", "cuda:0 NVIDIA H100 80GB HBM3"
  std::string note;  ///< why "auto" did not choose a GPU; empty where it did or was not asked
  bool on_gpu = false;
};

struct GpuOptions {
  bool fp8 = false;  ///< a float window model's linears in 8-bit floats; unavailable but on Hopper
  bool sections = false;  ///< for a profiler: no recorded graphs, an NVTX range a section
};

/// The backend of `device`: "cpu"; "cuda:N", the N-th GPU; or "auto", the first GPU that this build
/// and machine can use, else the CPU. invalid_argument for any other name; unavailable for a GPU
/// that is not there or fails. std::bad_alloc.
Result<Backend> make_backend(const std::string& device, const CpuOptions& cpu,
                             const GpuOptions& gpu = {});

}  // namespace cortex
