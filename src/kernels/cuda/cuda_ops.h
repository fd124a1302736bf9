#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
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

/// A call of the CUDA runtime failed; the device's memory must be taken for lost.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Empty where there is no driver, no GPU, or none of at least sm_80. Never throws.
std::vector<CudaDevice> cuda_devices();

/// float32, bf16 and int8 on a GPU. Everything that a forward does is recorded as a CUDA graph the
/// first time and replayed from then on. DeviceError when the device cannot be used;
/// std::bad_alloc when its memory does not suffice. portable: no kernel that needs more than sm_80.
std::unique_ptr<Ops> make_cuda_ops(int device, bool portable = false);

}  // namespace cortex
