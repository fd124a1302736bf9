#include <algorithm>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/paged_page.cuh"

/// Attention over pages as fast as memory gives them up: blocks that stay, each with a warp that
/// copies pages into a ring in shared memory ahead of the warps that work on them.
namespace cortex::cuda {
namespace {

constexpr int kMostWarps = kMostKeyWarps;  // one more copies. Two a scheduler have all registers
constexpr int kMostThreads = (kMostWarps + 1) * kWarp;
constexpr int kMostStages = 4;
// Streams whose pages would sweep everything else out of the L2.
constexpr std::int64_t kSweep = 8 << 20;

/// How the work is cut.
struct Plan : KeyRounds {
  int items = 0;   // streams x heads, heads of a stream side by side: so do they lie in memory
  int stages = 0;  // of the ring, each a block a warp
  bool sweeps = false;
};

/// What the copying warp says of a stage beside its bytes.
struct Source {
  int slot, live;
  int page[kMostWarps], chunks[kMostWarps];  // of a warp's block
};

#if __CUDA_ARCH__ >= 900

__device__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}
__device__ void barrier_init(std::uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}
__device__ void barrier_arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
__device__ void barrier_expect(std::uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}
__device__ void barrier_wait(std::uint64_t* barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra over;\n"
      "bra again;\n"
      "over:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}
__device__ std::uint64_t copy_policy(bool sweeps) {
  std::uint64_t policy;
  if (sweeps)
    asm("createpolicy.fractional.L2::evict_first.b64 %0;" : "=l"(policy));
  else
    asm("createpolicy.fractional.L2::evict_normal.b64 %0;" : "=l"(policy));
  return policy;
}
__device__ void copy_bulk(void* to, const void* from, int bytes, std::uint64_t* barrier,
                          std::uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}
/// Ordinary accesses to shared memory come before copies that are begun after.
__device__ void fence_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
/// Among the warps that work.
__device__ void sync_workers(int threads) {
  asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}

/// Place in the ring, and which pass over it.
struct Place {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void step(int stages) {
    if (++stage < stages) return;
    stage = 0;
    parity ^= 1U;
  }
};

#endif  // __CUDA_ARCH__ >= 900

/// bf16, at most 16 latents, pages of whole blocks. Nothing of the cache was written by a kernel
/// that may still run but the present step's rows, which are put into the copies here.
template <int kHeadDim, int kHalves>
__global__ void __launch_bounds__(kMostThreads, 1)
    paged_stream(const PagedAttentionArgs a, const Plan plan) {
#if __CUDA_ARCH__ >= 900
  using Layout = BlockLayout<kHeadDim>;
  using Part = PartAttention<kHeadDim, kHalves>;
  extern __shared__ __align__(128) unsigned char shared[];  // the ring, then the parts' sums
  __shared__ std::uint64_t full[kMostStages], empty[kMostStages];
  __shared__ Source sources[kMostStages];
  __shared__ float tops[2][kMostWarps][kMostLatents], totals[2][kMostWarps][kMostLatents];
  const auto block_of = [&](int stage, int of_warp) {
    return reinterpret_cast<Bf16*>(shared) + (stage * plan.warps + of_warp) * Layout::kElements;
  };
  const int part_floats = a.latents * Part::kPartStride;
  float* const all_sums = reinterpret_cast<float*>(block_of(plan.stages, 0));
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int page_blocks = a.cache.page_steps * a.latents / kBlock;
  const int window = a.cache.window_steps;
  let_next_begin();
  if (threadIdx.x == 0) {
    for (int s = 0; s < plan.stages; ++s) {
      barrier_init(&full[s], plan.warps);
      barrier_init(&empty[s], plan.warps);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  Place place;

  if (warp == plan.warps) {
    const std::uint64_t policy = copy_policy(plan.sweeps);
    for (int item = blockIdx.x; item < plan.items; item += gridDim.x) {
      const int b = item / a.heads, head = item % a.heads;
      const LiveWindow seen{a.cache.slot[b], a.cache.live[b], window, a.latents};
      const int first = a.cache.indptr[b];
      for (int round = 0; round < plan.rounds; ++round, place.step(plan.stages)) {
        const int number = round * plan.warps + lane;
        int chunks = 0, page = 0;
        if (lane < plan.warps && number < plan.blocks) chunks = seen.chunks(number);
        if (chunks > 0) page = a.cache.pages[first + number / page_blocks];
        barrier_wait(&empty[place.stage], place.parity ^ 1U);
        if (lane >= plan.warps) continue;
        Source& source = sources[place.stage];
        if (lane == 0) {
          source.slot = seen.slot;
          source.live = seen.live;
        }
        source.page[lane] = page;
        source.chunks[lane] = chunks;
        const int bytes = chunks * Layout::kChunk * static_cast<int>(sizeof(Bf16));
        barrier_expect(&full[place.stage], bytes);
        if (bytes > 0)
          copy_bulk(block_of(place.stage, lane),
                    page_head<Bf16>(a, page, head) + number % page_blocks * Layout::kElements,
                    bytes, &full[place.stage], policy);
      }
    }
    return;
  }

  const int workers = plan.warps * kWarp;
  wait_for_previous();
  StepInputs<kHeadDim, kHalves> inputs;
  inputs.load(a, static_cast<int>(blockIdx.x) / a.heads, static_cast<int>(blockIdx.x) % a.heads);
  int side = 0;  // of the places for parts: one is merged while the other fills
  for (int item = blockIdx.x; item < plan.items; item += gridDim.x, side ^= 1) {
    const int b = item / a.heads, head = item % a.heads;
    const StepRows<kHeadDim, kHalves> rows = inputs.turn_all();
    const int next = item + static_cast<int>(gridDim.x);
    if (next < plan.items) inputs.load(a, next / a.heads, next % a.heads);
    Part part;
    bool any = false;
    for (int round = 0; round < plan.rounds; ++round, place.step(plan.stages)) {
      const int number = round * plan.warps + warp;
      barrier_wait(&full[place.stage], place.parity);
      const Source& source = sources[place.stage];
      const LiveWindow seen{source.slot, source.live, window, a.latents};
      any = seen.live > 0;
      const int chunks = source.chunks[warp];
      if (chunks > 0) {
        Bf16* const block = block_of(place.stage, warp);
        if (holds_step(seen, number)) {
          put_rows(rows, seen, number, block,
                   page_head<Bf16>(a, source.page[warp], head) +
                       number % page_blocks * Layout::kElements);
          fence_copies();
        }
        part.add(rows, block, number, chunks, seen);
      }
      __syncwarp();
      if (lane == 0) barrier_arrive(&empty[place.stage]);
    }
    float* const sums = all_sums + side * plan.warps * part_floats;
    part.store(a.latents, sums + warp * part_floats, tops[side][warp], totals[side][warp]);
    sync_workers(workers);
    merge_parts<kHeadDim, kMostWarps>(a, b, head, plan.warps, sums, tops[side][0], totals[side][0],
                                      any, workers);
  }
#endif
}

template <int kHeadDim, int kHalves>
void launch_stream(const PagedAttentionArgs& a, cudaStream_t stream) {
  auto* const kernel = paged_stream<kHeadDim, kHalves>;
  int device = 0, processors = 0, most = 0, resident = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  cudaFuncAttributes attributes = {};
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");

  Plan plan{KeyRounds(a.cache.window_steps, a.latents)};
  plan.items = a.steps * a.heads;
  const std::size_t stage =
      sizeof(Bf16) * static_cast<std::size_t>(plan.warps) * BlockLayout<kHeadDim>::kElements;
  const std::size_t parts = sizeof(float) * 2 * static_cast<std::size_t>(plan.warps * a.latents) *
                            PartAttention<kHeadDim, kHalves>::kPartStride;
  const std::size_t room = static_cast<std::size_t>(most) - attributes.sharedSizeBytes - parts;
  plan.stages = static_cast<int>(std::min<std::size_t>(kMostStages, room / stage));
  // One item a block: the less memory it takes, the earlier it finds a place beside what runs.
  if (plan.items <= processors) plan.stages = std::min(plan.stages, plan.rounds);
  plan.sweeps = static_cast<std::int64_t>(stage) * plan.rounds * plan.items > kSweep;
  const std::size_t bytes = static_cast<std::size_t>(plan.stages) * stage + parts;
  allow_shared(kernel, bytes);
  const int threads = (plan.warps + 1) * kWarp;
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  launch(kernel, dim3(static_cast<unsigned>(std::min(plan.items, processors * resident))), threads,
         bytes, stream, a, plan);
}

}  // namespace

void paged_attention_sm90(const PagedAttentionArgs& a, cudaStream_t stream) {
  if (a.head_dim == 32)
    a.latents <= 8 ? launch_stream<32, 1>(a, stream) : launch_stream<32, 2>(a, stream);
  else
    a.latents <= 8 ? launch_stream<64, 1>(a, stream) : launch_stream<64, 2>(a, stream);
}

}  // namespace cortex::cuda
