#include "kernels/backend.h"

#include <fmt/format.h>

#include <charconv>

#ifdef CORTEX_WITH_CUDA
#include "kernels/cuda/cuda_ops.h"
#endif

namespace cortex {
namespace {

Backend cpu_backend(const CpuOptions& options) {
  Backend backend;
  backend.ops = make_cpu_ops(options);
  backend.name = fmt::format("cpu {}", backend.ops->name());
  return backend;
}

Error no_gpu(const std::string& device, const std::string& why) {
  return {ErrorCode::unavailable, fmt::format("device '{}': {}", device, why), "device"};
}

#ifdef CORTEX_WITH_CUDA

constexpr const char* kNone = "no NVIDIA GPU of compute capability 8.0 or newer, or no driver";

Result<Backend> cuda_backend(int index, const GpuOptions& options) {
  try {
    Backend backend;
    backend.ops = make_cuda_ops(index, {.fp8 = options.fp8, .sections = options.sections});
    backend.name = fmt::format("cuda:{} {}", index, backend.ops->name());
    backend.on_gpu = true;
    return backend;
  } catch (const DeviceError& e) {
    return no_gpu(fmt::format("cuda:{}", index), e.what());
  }
}

/// Error: why there is none.
Result<int> find_gpu(const std::string& device, int index) {
  const auto devices = cuda_devices();
  if (devices.empty()) return no_gpu(device, kNone);
  for (const CudaDevice& d : devices)
    if (index < 0 || d.index == index) return d.index;
  return no_gpu(device, fmt::format("there is no such GPU; the first is cuda:{}, {}",
                                    devices.front().index, devices.front().name));
}

Result<GpuTuning> tune_backend(int index, const cuda::TuneOptions& options) {
  const std::string device = fmt::format("cuda:{}", index);
  try {
    GpuTuning tuning;
    for (const CudaDevice& d : cuda_devices())
      if (d.index == index) tuning.device = fmt::format("{} {}", device, d.name);
    tuning.gemm = cuda::tune(index, options);
    return tuning;
  } catch (const DeviceError& e) {
    return no_gpu(device, e.what());
  }
}

#else

Result<Backend> cuda_backend(int index, const GpuOptions&) {
  return no_gpu(fmt::format("cuda:{}", index), "this build has no CUDA backend");
}
Result<int> find_gpu(const std::string& device, int) {
  return no_gpu(device, "this build has no CUDA backend");
}
Result<GpuTuning> tune_backend(int index, const cuda::TuneOptions&) {
  return no_gpu(fmt::format("cuda:{}", index), "this build has no CUDA backend");
}

#endif

/// N of "cuda:N"; negative for anything else.
int index_of(const std::string& device) {
  const std::string prefix = "cuda:";
  if (device.rfind(prefix, 0) != 0) return -1;
  int index = -1;
  const char* const end = device.data() + device.size();
  const auto parsed = std::from_chars(device.data() + prefix.size(), end, index);
  return parsed.ec == std::errc{} && parsed.ptr == end ? index : -1;
}

}  // namespace

Result<Backend> make_backend(const std::string& device, const CpuOptions& cpu,
                             const GpuOptions& options) {
  if (options.fp8 && device == "cpu")
    return Error{ErrorCode::unavailable, "8-bit floats need a Hopper GPU; the device is 'cpu'",
                 "fp8"};
  if (!options.gemm_table.empty()) {
    auto table = cuda::load_gemm_table(options.gemm_table);
    if (!table) return table.error();
    cuda::use_gemm_table(std::move(*table));
  }
  if (device == "cpu") return cpu_backend(cpu);
  if (device == "auto") {
    const auto gpu = find_gpu(device, -1);
    auto chosen = gpu ? cuda_backend(*gpu, options) : Result<Backend>(gpu.error());
    if (chosen || options.fp8) return chosen;
    Backend backend = cpu_backend(cpu);
    backend.note = chosen.error().message;
    return backend;
  }
  const int index = index_of(device);
  if (index < 0)
    return Error{ErrorCode::invalid_argument,
                 fmt::format("device is '{}', not auto, cpu or cuda:N", device), "device"};
  const auto gpu = find_gpu(device, index);
  if (!gpu) return gpu.error();
  return cuda_backend(*gpu, options);
}

Result<GpuTuning> tune_gpu(const std::string& device, const cuda::TuneOptions& options) {
  const int index = index_of(device);
  if (index < 0)
    return Error{ErrorCode::invalid_argument, fmt::format("device is '{}', not cuda:N", device),
                 "device"};
  const auto gpu = find_gpu(device, index);
  if (!gpu) return gpu.error();
  return tune_backend(*gpu, options);
}

}  // namespace cortex
