#include "train/runtime.h"

#include <fmt/format.h>
#include <malloc.h>
#include <sched.h>

#include <cstdlib>

namespace cortex::train {

Result<torch::Device> pick_device(const std::string& name) {
  const bool cuda = torch::cuda::is_available();
  if (name == "auto") return torch::Device(cuda ? torch::kCUDA : torch::kCPU);
  if (name == "cpu") return torch::Device(torch::kCPU);
  int index = 0;
  if (name.rfind("cuda:", 0) == 0) {
    char* end = nullptr;
    index = static_cast<int>(std::strtol(name.c_str() + 5, &end, 10));
    if (name.size() == 5 || *end != 0) index = -1;
  } else if (name != "cuda") {
    index = -1;
  }
  if (index < 0)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("device '{}' is not auto, cpu, cuda or cuda:N", name), "device"};
  if (!cuda || index >= static_cast<int>(torch::cuda::device_count()))
    return Error{ErrorCode::invalid_argument,
                 fmt::format("device '{}' is not there: LibTorch sees {} CUDA devices", name,
                             cuda ? static_cast<int>(torch::cuda::device_count()) : 0),
                 "device"};
  return torch::Device(torch::kCUDA, static_cast<torch::DeviceIndex>(index));
}

void prepare_process(int threads) {
  if (threads == 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    threads = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
  }
  torch::set_num_threads(threads);
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
}

}  // namespace cortex::train
