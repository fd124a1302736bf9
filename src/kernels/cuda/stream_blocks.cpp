#include "kernels/cuda/stream_blocks.h"

#include <algorithm>

#include "kernels/cuda/device_linear.h"
#include "kernels/cuda/launch.h"

namespace cortex::cuda {
namespace {

/// Of a row: four floats for 8 columns, whole groups of 64.
std::int64_t squares_bytes(std::int64_t cols) { return (cols + 511) / 512 * 1024; }

bool is_dense(const MatrixView& m, DType dtype) { return m.dtype == dtype && m.stride == m.cols; }

}  // namespace

void StreamBlocks::reserve(const OpsCapacity& c) {
  const std::int64_t rows = std::min<std::int64_t>(c.rows, StreamBlocksPlan::kMostRows);
  const auto bytes = static_cast<std::size_t>(2 * rows * c.inputs);
  if (narrow_.bytes() >= bytes) return;
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  narrow_ = device_memory(bytes);
  squares_ = device_memory(static_cast<std::size_t>(rows * squares_bytes(c.inputs)));
  arrivals_ = device_memory(kBarrierBytes);
  check(cudaMemset(arrivals_.as<void>(), 0, kBarrierBytes), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

bool StreamBlocks::run(const StreamBlocksArgs& args, cudaStream_t stream) {
  const std::int64_t rows = args.z.rows, dim = args.z.cols, hidden = args.hidden.cols;
  const auto blocks = static_cast<int>(args.blocks.size());
  if (rows == 0 || rows > StreamBlocksPlan::kMostRows || blocks == 0 ||
      blocks > StreamBlocksPlan::kMostBlocks ||
      narrow_.bytes() < static_cast<std::size_t>(2 * rows * dim) ||
      squares_.bytes() < static_cast<std::size_t>(rows * squares_bytes(dim)))
    return false;
  if (!is_dense(args.z, DType::f32) || !is_dense(args.hidden, DType::bf16) ||
      !is_dense(args.attention.qkv, DType::bf16) || !is_dense(args.attention.out, DType::bf16) ||
      args.attention.cache.dtype != DType::bf16)
    return false;

  StreamBlocksPlan plan;
  plan.eps = args.blocks[0].norm_attn.eps;
  // Sums have the order of linear.cu.
  plan.weights[0] = dense_bf16(*args.cross_out, dim, dim, false, false);
  if (plan.weights[0] == nullptr ||
      !dense_blocks(args.blocks, dim, hidden, false, plan.weights + 1))
    return false;
  plan.blocks = blocks;
  plan.dim = static_cast<int>(dim);
  plan.hidden_dim = static_cast<int>(hidden);
  plan.attention = args.attention;
  plan.z = args.z.data;
  plan.hidden = args.hidden.data;
  plan.narrow = narrow_.as<void>();
  plan.squares = squares_.f32();
  plan.arrivals = arrivals_.as<unsigned>();
  return stream_blocks(plan, stream);
}

}  // namespace cortex::cuda
