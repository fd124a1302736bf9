#pragma once

#include <cortex/result.h>
#include <torch/torch.h>

#include <string>

namespace cortex::train {

/// "auto" is CUDA where LibTorch sees a device, else the CPU. invalid_argument otherwise.
Result<torch::Device> pick_device(const std::string& name);

/// Threads of LibTorch's pool (0: all cores), and an allocator that keeps freed pages: activations
/// of the same sizes come back every iteration, and faulting them in again costs more than using
/// them.
void prepare_process(int threads);

}  // namespace cortex::train
