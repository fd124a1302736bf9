#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace cortex {

/// A GPU that this program's kernels run on.
struct CudaDevice {
  int index = 0;
  std::string name;
  int compute_capability = 0;  ///< 90: sm_90
  std::size_t memory_bytes = 0;
};

/// Empty where there is no driver, no GPU, or none of at least sm_80. Never throws.
std::vector<CudaDevice> cuda_devices();

struct CudaOptions {
  /// The linears of float windows in 8-bit floats (e4m3), quantised as they are packed: weights by
  /// a scale a row, activations by powers of two. Needs a Hopper GPU.
  bool fp8 = false;
  /// For a profiler: every forward is issued kernel by kernel, in an NVTX range a section.
  bool sections = false;
  /// No kernel that needs more than sm_80.
  bool portable = false;
};

/// float32, bf16 and int8 on a GPU. Everything that a forward does is recorded as a CUDA graph the
/// first time and replayed from then on. DeviceError when the device cannot be used; std::bad_alloc
/// when its memory does not suffice. A device that failed is reset before the first backend after
/// the last of those that failed with it; until those are gone, DeviceError.
std::unique_ptr<Ops> make_cuda_ops(int device, const CudaOptions& options = {});

}  // namespace cortex
