#include "kernels/cuda/window_blocks.h"

#include <algorithm>

#include "kernels/cuda/device_linear.h"

namespace cortex::cuda {
namespace {

constexpr std::int64_t kHeadDim = 64;
constexpr std::int64_t kMostHeads = 8, kMostRows = 1024;

bool fits(const MatrixView& m, std::int64_t rows, std::int64_t cols) {
  return m.dtype == DType::bf16 && m.rows == rows && m.cols == cols && m.stride == cols;
}

}  // namespace

void WindowBlocks::reserve(const OpsCapacity& c) {
  const std::int64_t rows = std::min(c.queries, kMostRows);
  const std::size_t bytes = WindowBlocksPlan::key_bytes(rows, kMostHeads);
  if (keys_.bytes() >= bytes) return;
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  keys_ = device_memory(bytes);
  const std::size_t of_signals = WindowBlocksPlan::signal_bytes(rows, kMostHeads);
  signals_ = device_memory(of_signals);
  check(cudaMemset(signals_.as<void>(), 0, of_signals), "cudaMemset");
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

bool WindowBlocks::run(const WindowBlocksArgs& args, cudaStream_t stream) {
  const RaggedAttentionArgs& attention = args.attention;
  const std::int64_t rows = args.z.rows, dim = args.z.cols, hidden = args.hidden.cols;
  const auto blocks = static_cast<int>(args.blocks.size());
  if (rows == 0 || rows > kMostRows || blocks == 0 || blocks > WindowBlocksPlan::kMostBlocks ||
      attention.head_dim != kHeadDim || attention.heads > kMostHeads ||
      dim != attention.heads * kHeadDim || hidden != 4 * dim ||
      rows != attention.items * attention.queries || attention.key_bins != nullptr ||
      !fits(args.z, rows, dim) || !fits(attention.out, rows, dim) ||
      !fits(args.latents, attention.queries, dim) ||
      keys_.bytes() < WindowBlocksPlan::key_bytes(rows, kMostHeads))
    return false;

  WindowBlocksPlan plan;
  plan.eps = args.blocks[0].norm_attn.eps;
  plan.latents = args.latents.data;
  plan.seen = attention.out.data;
  plan.cross_out = dense_bf16(*args.cross_out, dim, dim, false, true);
  if (plan.cross_out == nullptr || !dense_blocks(args.blocks, dim, hidden, true, plan.weights))
    return false;
  plan.blocks = blocks;
  plan.heads = attention.heads;
  plan.items = attention.items;
  plan.item_rows = static_cast<int>(attention.queries);
  plan.z = args.z.data;
  plan.keys = keys_.as<void>();
  plan.signals = signals_.as<std::uint64_t>();
  return window_blocks(plan, stream);
}

}  // namespace cortex::cuda
