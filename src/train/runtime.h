#pragma once

#include <cortex/result.h>
#include <torch/torch.h>

#include <string>
#include <utility>

namespace cortex::train {

/// "auto" is CUDA where LibTorch sees a device, else the CPU. invalid_argument otherwise.
Result<torch::Device> pick_device(const std::string& name);

/// Threads of LibTorch's pool (0: all cores), and an allocator that keeps freed pages: activations
/// of the same sizes come back every iteration, and faulting them in again costs more than using
/// them.
void prepare_process(int threads);

/// What `body` returns, a Result; what it throws becomes the error: a value's own, or LibTorch's.
template <class Body>
auto guarded(Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (const Exception& e) {
    return e.error;
  } catch (const c10::Error& e) {
    return Error{ErrorCode::internal, std::string("LibTorch: ") + e.what_without_backtrace(), ""};
  }
}

}  // namespace cortex::train
