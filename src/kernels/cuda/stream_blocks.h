#pragma once

#include <cuda_runtime.h>

#include "kernels/cuda/memory.h"
#include "kernels/ops.h"

namespace cortex::cuda {

/// What stream_blocks() takes.
struct StreamBlocksPlan {
  static constexpr int kMostBlocks = 32;
  static constexpr int kMostRows = 16;
  static constexpr int kLinears = 4;

  const void* weights[1 + kMostBlocks * kLinears] = {};  ///< cross out; qkv, out, up, down a block
  int blocks = 0;
  int dim = 0;
  int hidden_dim = 0;
  float eps = 0;                 ///< of every norm, whose gain is in the weight
  PagedAttentionArgs attention;  ///< rows of bf16, dense; `layer` is the kernel's
  float* z = nullptr;            ///< [steps * R, dim]
  void* hidden = nullptr;        ///< [steps * R, hidden_dim] bf16
  void* narrow = nullptr;        ///< [steps * R, dim] bf16, room
  float* squares = nullptr;      ///< [steps * R, dim / 2], dim up to whole 512, room
  unsigned* arrivals = nullptr;  ///< kBarrierBytes, zero before the first launch
};
constexpr std::size_t kBarrierBytes = 256;

/// Ops::stream_blocks() as one kernel whose blocks are all on the device at once. False: of a size
/// that it does not take, nothing was launched.
bool stream_blocks(const StreamBlocksPlan& plan, cudaStream_t stream);

/// Ops::stream_blocks() of few rows in bf16, with the bits that its operations would give one by
/// one. Needs sm_90. Used by one thread, on one stream.
class StreamBlocks {
 public:
  /// For calls of up to this size; larger ones are not taken.
  void reserve(const OpsCapacity& capacity);
  /// False: not taken, nothing was launched.
  bool run(const StreamBlocksArgs& args, cudaStream_t stream);

 private:
  Buffer narrow_;
  Buffer squares_;
  Buffer arrivals_;
};

}  // namespace cortex::cuda
