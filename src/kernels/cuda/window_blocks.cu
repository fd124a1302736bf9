#include "kernels/cuda/window_blocks.h"

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/window_blocks_worker.cuh"

namespace cortex::cuda {
namespace {

using namespace windows;

template <int kRanks>
__global__ void __launch_bounds__(kThreads, 1) stay(const __grid_constant__ Job job) {
#if CORTEX_SM90A
  using L = Layout<kRanks>;
  extern __shared__ __align__(1024) unsigned char shared[];
  const std::uint32_t base = shared_address(shared);
  if (threadIdx.x == kWorkers) {
    if (base % 1024 != 0) __trap();
    for (int i = 0; i < kStages; ++i) {
      barrier_init(base + L::kFull + 8 * i, 1);
      barrier_init(base + L::kEmpty + 8 * i, kWorkers / kWarp);
    }
    // What comes from another block: its bytes, expected by one arrival. From this one: a half and
    // its sums of squares by each group.
    const int rank = static_cast<int>(blockIdx.x) % kRanks;
    for (int i = 0; i < kRanks; ++i) {
      barrier_init(base + L::kZHere + 8 * i, i == rank ? kGroups * (1 + kRows / kGroups) : 1);
      barrier_init(base + L::kSeenHere + 8 * i, i == rank ? kGroups : 1);
    }
    barrier_init(base + L::kPartsHere, 1);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    proxy_fence();
    for (int i = 0; i < kRanks; ++i) {
      if (i == rank) continue;
      barrier_expect(base + L::kZHere + 8 * i, kZBytes);
      barrier_expect(base + L::kSeenHere + 8 * i, kSeenBytes);
    }
    barrier_expect(base + L::kPartsHere, L::kPartsBytes);
  }
  __syncwarp();
  cluster_sync();
  let_next_begin();
  if (threadIdx.x >= kWorkers) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == kWorkers) fetch<kRanks>(job, base, static_cast<int>(blockIdx.x) % kRanks);
    wait_for_previous();
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    Worker<kRanks>(job, shared, base).run();
  }
#else
  __trap();
#endif
}

template <int kRanks>
bool launch_stay(const WindowBlocksPlan& p, cudaStream_t stream) {
  auto* const kernel = stay<kRanks>;
  constexpr std::size_t kBytes = Layout<kRanks>::kBytes;
  const std::int64_t rows = std::int64_t{p.items} * p.item_rows;
  const auto clusters = static_cast<int>(rows / kRows);
  allow_shared(kernel, kBytes);
  cudaLaunchAttribute attributes[3] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {kRanks, 1, 1};
  attributes[1].id = cudaLaunchAttributeCooperative;
  attributes[1].val.cooperative = 1;
  attributes[2].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[2].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(clusters * kRanks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = kBytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 1;
  int resident = 0;
  check(cudaOccupancyMaxActiveClusters(&resident, kernel, &config),
        "cudaOccupancyMaxActiveClusters");
  if (resident < clusters) return false;

  Job job;
  constexpr std::int64_t kDim = kRanks * kWidth, kHidden = kHiddenTiles * kDim;
  const std::int64_t outputs[] = {3 * kDim, kDim, kHidden, kDim};
  for (int i = 0; i < p.blocks * WindowBlocksPlan::kLinears; ++i) {
    const int linear = i % WindowBlocksPlan::kLinears;
    const std::int64_t inputs = linear == 3 ? kHidden : kDim;
    job.weights[i] = bf16_tensor_map(p.weights[i], outputs[linear], inputs, inputs);
  }
  job.latents = static_cast<const float*>(p.latents);
  job.seen = static_cast<const Bf16*>(p.seen);
  job.cross_out = bf16_tensor_map(p.cross_out, kDim, kDim, kDim);
  job.blocks = p.blocks;
  job.eps = p.eps;
  job.z = static_cast<Bf16*>(p.z);
  job.keys = static_cast<uint4*>(p.keys);
  job.ended = p.signals;
  job.begun = p.signals + kSignalPitch;
  job.signals = p.signals + 2 * kSignalPitch;
  config.numAttrs = 3;
  check(cudaLaunchKernelEx(&config, kernel, job), "cudaLaunchKernelEx");
  return true;
}

}  // namespace

std::size_t WindowBlocksPlan::key_bytes(std::int64_t rows, std::int64_t heads) {
  return static_cast<std::size_t>(2 * rows / kRows * heads * kKeyVectors) * sizeof(uint4);
}
std::size_t WindowBlocksPlan::signal_bytes(std::int64_t rows, std::int64_t heads) {
  return static_cast<std::size_t>(rows / kRows * heads * kSignals + 2 * kSignalPitch) *
         sizeof(std::uint64_t);
}

bool window_blocks(const WindowBlocksPlan& p, cudaStream_t stream) {
  if (p.item_rows != p.heads * kRows) return false;
  switch (p.heads) {
    case 4:
      return launch_stay<4>(p, stream);
    case 8:
      return launch_stay<8>(p, stream);
    default:
      return false;
  }
}

}  // namespace cortex::cuda
