#pragma once

#include <cortex/result.h>

#include <memory>
#include <string>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cuda/tune.h"
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
  /// A file of `cortex tune`, for windows on Hopper GPUs in place of the table that ships; counts
  /// for the whole process. Empty: none.
  std::string gemm_table = {};
};

/// The backend of `device`: "cpu"; "cuda:N", the N-th GPU; or "auto", the first GPU that this build
/// and machine can use, else the CPU. invalid_argument for any other name; unavailable for a GPU
/// that is not there or fails; what is wrong with `gemm_table`, whatever the device.
/// std::bad_alloc.
Result<Backend> make_backend(const std::string& device, const CpuOptions& cpu,
                             const GpuOptions& gpu = {});

struct GpuTuning {
  std::string device;  ///< "cuda:0 NVIDIA H100 80GB HBM3"
  cuda::GemmTuning gemm;
};

/// Times the tilings of a GPU's products. invalid_argument for a name other than cuda:N;
/// unavailable for a GPU that is not there, has none of these tilings or fails. std::bad_alloc.
Result<GpuTuning> tune_gpu(const std::string& device, const cuda::TuneOptions& options);

}  // namespace cortex
