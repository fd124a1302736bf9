#pragma once

#include "kernels/cuda/memory.h"
#include "kernels/ops.h"

namespace cortex::cuda {

/// What window_blocks() takes: weights in bf16, dense, the norms' gains in them.
struct WindowBlocksPlan {
  static constexpr int kMostBlocks = 16;
  static constexpr int kLinears = 4;

  const void* latents = nullptr;                     ///< [item_rows, dim] float32
  const void* seen = nullptr;                        ///< [items * item_rows, dim] bf16
  const void* cross_out = nullptr;                   ///< [dim, dim]
  const void* weights[kMostBlocks * kLinears] = {};  ///< qkv, out, up, down a block
  int blocks = 0;
  int heads = 0;  ///< of 64; dim is 64 heads, hidden 256 heads
  int items = 0;
  int item_rows = 0;
  float eps = 0;
  void* z = nullptr;                 ///< [items * latents, dim] bf16
  void* keys = nullptr;              ///< key_bytes(), room
  std::uint64_t* signals = nullptr;  ///< signal_bytes(), zero before the first launch

  static std::size_t key_bytes(std::int64_t rows, std::int64_t heads);
  static std::size_t signal_bytes(std::int64_t rows, std::int64_t heads);
};

/// Ops::window_blocks() as one kernel whose blocks are all on the device at once. False: of a size
/// that it does not take or that the device has no room for, nothing was launched.
bool window_blocks(const WindowBlocksPlan& plan, cudaStream_t stream);

/// Ops::window_blocks() of few rows in bf16. Needs sm_90a. Used by one thread, on one stream.
class WindowBlocks {
 public:
  /// For calls of up to this size; larger ones are not taken.
  void reserve(const OpsCapacity& capacity);
  /// False: not taken, nothing was launched.
  bool run(const WindowBlocksArgs& args, cudaStream_t stream);

 private:
  Buffer keys_;
  Buffer signals_;
};

}  // namespace cortex::cuda
