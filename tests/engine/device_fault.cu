#include "device_fault.h"

namespace cortex::testing {
namespace {

__global__ void write_to(int* nowhere) { *nowhere = 1; }

}  // namespace

bool break_device() {
  write_to<<<1, 1>>>(nullptr);
  return cudaDeviceSynchronize() == cudaErrorIllegalAddress;
}

}  // namespace cortex::testing
