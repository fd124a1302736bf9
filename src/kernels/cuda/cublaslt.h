#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/gemm_table.h"

namespace cortex::cuda {

/// cuBLASLt, a peer of the kernels here: loaded as it is first asked for, so that nothing links it.
class CublasLt {
 public:
  CublasLt();
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// "cuBLASLt 13.0.2", or empty where there is none.
  const std::string& name() const { return name_; }

  /// Queues out[m, n] = a[m, k] w[n, k]^T, all dense; out is bf16, or s32 for int8.
  using Product =
      std::function<cudaError_t(const void* a, const void* w, void* out, cudaStream_t stream)>;
  /// The library's own ways of doing it, what it holds fastest first; empty where it has none. They
  /// must not outlive this.
  std::vector<Product> products(GemmType type, int m, int n, int k);

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::string name_;
};

}  // namespace cortex::cuda
