#include "kernels/cuda/ragged_attention_sm90.h"

#include <algorithm>

#include "kernels/cuda/ragged_attention_sm90.cuh"
#include "kernels/cuda/tensor_map.h"

namespace cortex::cuda {
namespace {

using namespace attention;

template <int kRowGroups>
__global__ void __launch_bounds__(kThreads, 1) attend_windows(const __grid_constant__ Plan args) {
#if CORTEX_SM90A
  extern __shared__ unsigned char memory[];
  auto& shared =
      *reinterpret_cast<Shared<kRowGroups>*>(memory + (-shared_address(memory) & (kAlignment - 1)));
  if (threadIdx.x == 0) {
    prefetch_map(&args.q);
    prefetch_map(&args.k);
    prefetch_map(&args.v);
    constexpr int kGroupWarps = kGroupThreads / kWarp;
    for (int s = 0; s < Shared<kRowGroups>::kStages; ++s) {
      barrier_init(shared_address(&shared.full[s]), 1);
      barrier_init(shared_address(&shared.empty[s]), kGroupWarps * kRowGroups);
    }
    for (int s = 0; s < 2; ++s) {
      barrier_init(shared_address(&shared.q_full[s]), 1);
      barrier_init(shared_address(&shared.q_empty[s]), kGroupWarps * kGroups);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
  }
  __syncthreads();
  let_next_begin();
  if (threadIdx.x >= kGroups * kGroupThreads) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 32;");
    const int warp = threadIdx.x / kWarp - kGroups * kGroupThreads / kWarp;
    if (warp == 0)
      fetch_keys<kRowGroups>(args, shared);
    else if (warp == 1)
      fetch_queries<kRowGroups>(args, shared);
    else
      wait_for_previous();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 112;");
    attend<kRowGroups>(args, shared);
  }
#else
  __trap();
#endif
}

CUtensorMap tensor_map(const MatrixView& m, int heads) {
  return bf16_tensor_map(m.data, m.rows, std::int64_t{heads} * kHeadDim, m.stride);
}

int processors() {
  int device = 0, count = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  return count;
}

int works_of(const RaggedAttentionArgs& a, int row_groups) {
  return a.items * a.heads * static_cast<int>(blocks_of(a.queries, row_groups * 64));
}

/// Warpgroups with queries of their own. A work takes the longer the more it has; what else it does
/// takes as long as this many tiles do.
int choose_row_groups(const RaggedAttentionArgs& a, int blocks) {
  constexpr double kRest = 8;
  const double tiles = static_cast<double>(a.k.rows) / a.items / kTileKeys;
  int best = 1;
  double least = 0;
  for (const int row_groups : {1, 2, 4}) {
    if (row_groups > 1 && a.queries <= row_groups * 32) break;
    const double cost = blocks_of(works_of(a, row_groups), blocks) * (row_groups * tiles + kRest);
    if (row_groups > 1 && cost > least) continue;
    best = row_groups;
    least = cost;
  }
  return best;
}

template <int kRowGroups>
void launch_attention(const RaggedAttentionArgs& a, int blocks, cudaStream_t stream) {
  Plan args;
  args.q = tensor_map(a.q, a.heads);
  args.k = tensor_map(a.k, a.heads);
  args.v = tensor_map(a.v, a.heads);
  args.a = a;
  args.row_blocks = static_cast<int>(blocks_of(a.queries, kRowGroups * 64));
  args.works = works_of(a, kRowGroups);
  constexpr std::size_t kShared = sizeof(Shared<kRowGroups>) + kAlignment;
  static_assert(kShared <= 227 * 1024);
  allow_shared(attend_windows<kRowGroups>, kShared);
  launch(attend_windows<kRowGroups>, dim3(static_cast<unsigned>(std::min(args.works, blocks))),
         kThreads, kShared, stream, args);
}

bool aligned(const MatrixView& m) {
  return reinterpret_cast<std::uintptr_t>(m.data) % 16 == 0 && m.stride % 8 == 0;
}

}  // namespace

bool ragged_attention_sm90_takes(const RaggedAttentionArgs& a) {
  const bool narrow = a.q.dtype == DType::bf16 && a.k.dtype == DType::bf16 &&
                      a.v.dtype == DType::bf16 && a.out.dtype == DType::bf16;
  return narrow && a.head_dim == kHeadDim && a.k.rows > 0 && a.v.rows > 0 && aligned(a.q) &&
         aligned(a.k) && aligned(a.v) && aligned(a.out);
}

void ragged_attention_sm90(const RaggedAttentionArgs& a, cudaStream_t stream) {
  const int blocks = processors();
  switch (choose_row_groups(a, blocks)) {
    case 1:
      return launch_attention<1>(a, blocks, stream);
    case 2:
      return launch_attention<2>(a, blocks, stream);
    default:
      return launch_attention<4>(a, blocks, stream);
  }
}

}  // namespace cortex::cuda
