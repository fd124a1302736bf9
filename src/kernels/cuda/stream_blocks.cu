#include <algorithm>

#include "kernels/cuda/linear_device.cuh"
#include "kernels/cuda/paged_page.cuh"
#include "kernels/cuda/stream_blocks.h"

/// All blocks of a stream model in one kernel, for rows so few that a kernel an operation costs
/// more than the operation. Its blocks stay, each with its share of every linear's columns, and
/// fetch the weights that they will need next while they wait for each other. Sums are made by the
/// same functions and in the same order as those of skinny_linear and paged_stream.
namespace cortex::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMostKeyBlocks = 64;
constexpr int kMostLatentsHere = 8;  // of the attention: half an mma

enum Linear { kQkv, kOut, kUp, kDown };

/// Where things lie in shared memory, in vectors of 16 bytes, and how the work is cut.
struct Layout {
  int tiles[StreamBlocksPlan::kLinears];  ///< of 8 columns
  int slot[StreamBlocksPlan::kLinears];   ///< weights of a block's tiles
  int keys = 0;                           ///< K and V of a head's window
  int parts = 0;                          ///< sums of chains, or of a warp's keys
  KeyRounds rounds;
};

#if __CUDA_ARCH__ >= 900

constexpr int kWarps = kThreads / kWarp;
// A wait of about a second: the others are gone.
constexpr int kMostPolls = 1 << 21;
// Of the barrier's memory: how many arrived in all launches, and in those that ended.
constexpr int kArrived = 0, kEnded = 32;

/// What was written before any of the arrivals that it counts is seen after.
__device__ unsigned load_acquire(const unsigned* p) {
  unsigned value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(p) : "memory");
  return value;
}
/// By all threads: what they wrote is seen by whoever sees the arrival. Copies that are begun after
/// it do not hold it up.
__device__ void arrive(unsigned* arrivals) {
  __syncthreads();
  if (threadIdx.x == 0)
    asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(arrivals + kArrived), "r"(1)
                 : "memory");
  __syncthreads();
}
/// By all threads, until `target` have arrived. The count wraps around.
__device__ void wait_for(const unsigned* arrivals, unsigned target) {
  if (threadIdx.x == 0) {
    int polls = 0;
    while (static_cast<int>(load_acquire(arrivals + kArrived) - target) < 0)
      if (++polls > kMostPolls) __trap();
  }
  __syncthreads();
}

/// A chain of kMma mma: rows of x from the device's memory, a tile's columns from shared memory.
/// Other blocks wrote x: it is read past the multiprocessor's own cache.
template <int kHalves, int kMma>
__device__ void sum_chain(const LinearArgs& a, int first, const uint4* w, int pitch,
                          float (&d)[4]) {
  const int g = threadIdx.x % kWarp / 4, t = threadIdx.x % 4;
  uint2 x[kHalves][kMma];
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int m = g + 8 * half;
    const auto* const row =
        reinterpret_cast<const uint2*>(static_cast<const Bf16*>(a.x) + m * a.x_stride + first * 16);
#pragma unroll
    for (int j = 0; j < kMma; ++j) x[half][j] = m < a.m ? __ldcg(row + 4 * j + t) : uint2{0, 0};
  }
#pragma unroll
  for (int j = 0; j < kMma; ++j)
    mma_32_bytes(d, x[0][j], kHalves == 2 ? x[kHalves - 1][j] : uint2{0, 0},
                 reinterpret_cast<const uint2*>(w + g * pitch + 2 * (first + j))[t]);
}

/// What of a linear is this block's, and this warp's: worked out before there is anything to read.
struct Share {
  int own;     ///< tiles
  int chains;  ///< of a tile
  int task;    ///< the warp's first: a chain of a tile
  int tile, first;
  __device__ Share(int tiles, int k) {
    own = (tiles - static_cast<int>(blockIdx.x) + static_cast<int>(gridDim.x) - 1) /
          static_cast<int>(gridDim.x);
    chains = (k / 16 + kChain - 1) / kChain;
    // Warps 0 and 4 come last: they have the squares of the first rows.
    take(static_cast<int>(0x54372106U >> (threadIdx.x / kWarp * 4) & 7U));
  }
  __device__ void take(int number) {
    task = number;
    tile = number / chains;
    first = number % chains * kChain;
  }
};

/// This block's tiles of a linear. A thread's place in a tile is the same in every linear, so that
/// what Epilogue::add adds to stays with it: `z`, of the block's only tile.
template <int kHalves>
__device__ void multiply(const LinearArgs& a, Share share, const uint4* w, float* parts, float& z) {
  const int warp = threadIdx.x / kWarp;
  const int steps = a.k / 16, chains = share.chains;
  const int pitch = a.k / 8 + kSkinnyPad;
  const int place = threadIdx.x % kSkinnyTile;
  const int m = place / kColumns, column = place % kColumns;
  const bool ends = warp % 4 * 4 < a.m;  // rows of this warp
  RowSquares<true> squares;
  if (a.squares && ends) squares.load(a, min(m, a.m - 1), column);
  for (; share.task < share.own * chains; share.take(share.task + kWarps)) {
    const uint4* const columns = w + share.tile * kColumns * pitch;
    float d[4] = {};
    if (steps - share.first >= kChain)
      sum_chain<kHalves, kChain>(a, share.first, columns, pitch, d);
    else
      sum_chain<kHalves, kChain / 2>(a, share.first, columns, pitch, d);
    put_chain(parts + share.task * kSkinnyTile, d);
  }
  float factor = 1;
  if (a.squares && ends) factor = squares.inverse_rms(a, min(m, a.m - 1), column);
  __syncthreads();
  if (!ends) return;
  const bool valid = m < a.m;
  for (int i = threadIdx.x / kSkinnyTile; i < share.own; i += kThreads / kSkinnyTile) {
    const int n = static_cast<int>(blockIdx.x + i * gridDim.x) * kColumns + column;
    const float y =
        scaled(a, n, add_chains(parts + i * chains * kSkinnyTile, chains, place), factor);
    if (a.epilogue == Epilogue::add) {
      z = finish(a, y, z);
      leave_narrow<true>(a, m, n, z, valid);
    } else if (valid) {
      put(a, m, n, y, 0);
    }
  }
}

#endif  // __CUDA_ARCH__ >= 900

/// kHalves: 1 for up to 8 rows, 2 for more.
template <int kHeadDim, int kHalves>
__global__ void __launch_bounds__(kThreads, 1)
    stay(const __grid_constant__ StreamBlocksPlan p, const __grid_constant__ Layout layout) {
#if __CUDA_ARCH__ >= 900
  using Keys = BlockLayout<kHeadDim>;
  using Part = PartAttention<kHeadDim, 1>;
  extern __shared__ uint4 shared[];
  __shared__ int pages[kMostKeyBlocks], chunks[kMostKeyBlocks];  // of a block of keys
  __shared__ float tops[kMostKeyWarps][kMostLatents], totals[kMostKeyWarps][kMostLatents];
  let_next_begin();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int linears = StreamBlocksPlan::kLinears * p.blocks;
  PagedAttentionArgs attention = p.attention;
  const int rows = attention.steps * attention.latents;
  float* const parts = reinterpret_cast<float*>(shared + layout.parts);
  Bf16* const keys = reinterpret_cast<Bf16*>(shared + layout.keys);

  // Linear i of all but the first, cross out, which is -1. By all threads, as fetch_keys(): both
  // leave one group of copies.
  const auto kind_of = [](int i) { return i < 0 ? kOut : i % StreamBlocksPlan::kLinears; };
  const auto fetch_weights = [&](int i) {
    static_assert(kWarps == kColumns);
    if (i < linears) {
      const int kind = kind_of(i), k = kind == kDown ? p.hidden_dim : p.dim;
      const int vectors = k / 8, pitch = vectors + kSkinnyPad;
      uint4* to = shared + layout.slot[kind] + warp * pitch;
      const auto* const from = static_cast<const uint4*>(p.weights[i + 1]) + warp * vectors;
      for (int tile = blockIdx.x; tile < layout.tiles[kind];
           tile += gridDim.x, to += kColumns * pitch)
        for (int v = lane; v < vectors; v += kWarp)
          copy_16_async(to + v, from + std::int64_t{tile} * kColumns * vectors + v, true);
    }
    commit_copies();
  };
  // The last blocks attend: they have least of the other work.
  const int items = attention.steps * attention.heads;
  const int item = static_cast<int>(gridDim.x - 1 - blockIdx.x);
  const bool attends = item < items;
  const int b = attends ? item / attention.heads : 0, head = item % attention.heads;
  const int page_blocks = attention.cache.page_steps * attention.latents / kBlock;
  LiveWindow seen{0, 0, attention.cache.window_steps, attention.latents};
  // Where the page keeps block `number` of the head's keys.
  const auto stored = [&](int number) {
    return page_head<Bf16>(attention, pages[number], head) + number % page_blocks * Keys::kElements;
  };
  const auto fetch_keys = [&](int layer) {
    if (attends && layer < p.blocks) {
      attention.layer = layer;
      for (int number = warp; number < layout.rounds.blocks; number += kWarps) {
        const auto* const from = reinterpret_cast<const uint4*>(stored(number));
        uint4* const to = reinterpret_cast<uint4*>(keys + number * Keys::kElements);
        for (int v = lane; v < chunks[number] * Keys::kChunk / 8; v += kWarp)
          copy_16_async(to + v, from + v, true);
      }
    }
    commit_copies();
  };

  fetch_weights(-1);
  fetch_weights(kQkv);
  if (attends) {
    seen.slot = attention.cache.slot[b];
    seen.live = attention.cache.live[b];
    const int first = attention.cache.indptr[b];
    for (int number = threadIdx.x; number < layout.rounds.blocks; number += kThreads) {
      chunks[number] = seen.chunks(number);
      pages[number] = chunks[number] > 0 ? attention.cache.pages[first + number / page_blocks] : 0;
    }
    __syncthreads();
  }
  fetch_keys(0);
  fetch_weights(kUp);
  fetch_weights(kDown);
  // A phase's copies were begun at least three groups before it.
  constexpr int kLaterCopies = 2;

  wait_for_previous();
  unsigned target = 0;  // arrivals before the present phase, thread 0's alone
  if (threadIdx.x == 0) target = load_acquire(p.arrivals + kEnded);
  const int m = threadIdx.x / kColumns;
  const std::int64_t place =
      std::int64_t{m} * p.dim + blockIdx.x * kColumns + threadIdx.x % kColumns;
  const bool has_z = static_cast<int>(blockIdx.x) < layout.tiles[kOut] && m < rows;
  float z = has_z ? p.z[place] : 0.0f;

#pragma unroll 1
  for (int i = -1; i < linears; ++i) {
    const int kind = kind_of(i);
    const int next = i < 0 ? kOut : i + StreamBlocksPlan::kLinears;
    const bool works = static_cast<int>(blockIdx.x) < layout.tiles[kind];
    if (works) {
      LinearArgs a;
      a.precision = DType::bf16;
      a.m = rows;
      a.n = layout.tiles[kind] * kColumns;
      a.k = kind == kDown ? p.hidden_dim : p.dim;
      a.eps = p.eps;
      a.out_stride = a.n;
      a.out_dtype = DType::bf16;
      if (kind == kQkv || kind == kUp) {
        a.x = p.narrow;
        a.squares = p.squares;
        a.epilogue = kind == kUp ? Epilogue::gelu : Epilogue::store;
        a.out = kind == kUp ? p.hidden : attention.qkv.data;
      } else {
        a.x = kind == kDown ? p.hidden : attention.out.data;
        a.epilogue = Epilogue::add;
        a.narrow = static_cast<Bf16*>(p.narrow);
        a.squares_out = p.squares;
      }
      a.x_stride = a.k;
      const Share share(layout.tiles[kind], a.k);
      wait_copies<kLaterCopies>();
      if (i < 0)
        __syncthreads();
      else
        wait_for(p.arrivals, target);
      multiply<kHalves>(a, share, shared + layout.slot[kind], parts, z);
      arrive(p.arrivals);
      fetch_weights(next);
    } else {
      commit_copies();
    }
    target += static_cast<unsigned>(min(layout.tiles[kind], static_cast<int>(gridDim.x)));
    if (i < 0 || kind != kQkv) continue;

    const int layer = i / StreamBlocksPlan::kLinears;
    if (attends) {
      attention.layer = layer;
      wait_copies<kLaterCopies>();
      wait_for(p.arrivals, target);
      if (warp < layout.rounds.warps) {
        StepInputs<kHeadDim, 1> inputs;
        inputs.load(attention, b, head);
        const StepRows<kHeadDim, 1> step = inputs.turn_all();
        Part part;
        for (int number = warp; number < layout.rounds.blocks; number += layout.rounds.warps) {
          if (chunks[number] == 0) continue;
          Bf16* const block = keys + number * Keys::kElements;
          if (holds_step(seen, number)) put_rows(step, seen, number, block, stored(number));
          part.add(step, block, number, chunks[number], seen);
        }
        part.store(attention.latents, parts + warp * attention.latents * Part::kPartStride,
                   tops[warp], totals[warp]);
      }
      __syncthreads();
      merge_parts<kHeadDim, kMostKeyWarps>(attention, b, head, layout.rounds.warps, parts, tops[0],
                                           totals[0], seen.live > 0, kThreads);
      arrive(p.arrivals);
      fetch_keys(layer + 1);
    } else {
      commit_copies();
    }
    target += static_cast<unsigned>(items);
  }
  if (has_z) p.z[place] = z;
  // All have read where this launch began: every block arrives at the last up, and this one waited
  // for it.
  if (blockIdx.x == 0 && threadIdx.x == 0) p.arrivals[kEnded] = target;
#endif
}

template <int kHeadDim, int kHalves>
bool launch_stay(const StreamBlocksPlan& p, cudaStream_t stream) {
  auto* const kernel = stay<kHeadDim, kHalves>;
  const PagedAttentionArgs& attention = p.attention;
  int device = 0, processors = 0, most = 0, resident = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device),
        "cudaDeviceGetAttribute");
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "cudaDeviceGetAttribute");
  cudaFuncAttributes attributes = {};
  check(cudaFuncGetAttributes(&attributes, kernel), "cudaFuncGetAttributes");

  Layout layout;
  layout.rounds = KeyRounds(attention.cache.window_steps, attention.latents);
  const int widths[] = {3 * p.dim, p.dim, p.hidden_dim, p.dim};
  for (int i = 0; i < StreamBlocksPlan::kLinears; ++i) layout.tiles[i] = widths[i] / kColumns;
  // As few blocks as have no more than the fullest one's work.
  const int most_tiles = std::max(layout.tiles[kQkv], layout.tiles[kUp]);
  const int each = (most_tiles + processors - 1) / processors;
  const int grid = (most_tiles + each - 1) / each;
  if (layout.tiles[kUp] < grid || layout.tiles[kOut] > grid ||
      attention.steps * attention.heads > grid || layout.rounds.blocks > kMostKeyBlocks)
    return false;

  int at = 0, parts = layout.rounds.warps * attention.latents * part_stride(kHeadDim) / 4;
  for (int i = 0; i < StreamBlocksPlan::kLinears; ++i) {
    const int vectors = (i == kDown ? p.hidden_dim : p.dim) / 8;
    const int own = (layout.tiles[i] + grid - 1) / grid;
    layout.slot[i] = at;
    at += own * kColumns * (vectors + kSkinnyPad);
    const int chains = (vectors / 2 + kChain - 1) / kChain;
    parts = std::max(parts, own * chains * kSkinnyTile / 4);
  }
  layout.keys = at;
  at += layout.rounds.blocks * BlockLayout<kHeadDim>::kElements / 8;
  layout.parts = at;
  const std::size_t bytes = static_cast<std::size_t>(at + parts) * sizeof(uint4);
  if (bytes + attributes.sharedSizeBytes > static_cast<std::size_t>(most)) return false;
  allow_shared(kernel, bytes);
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, kThreads, bytes),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  if (resident < 1) return false;
  launch_together(kernel, dim3(static_cast<unsigned>(grid)), kThreads, bytes, stream, p, layout);
  return true;
}

}  // namespace

bool stream_blocks(const StreamBlocksPlan& p, cudaStream_t stream) {
  const PagedAttentionArgs& a = p.attention;
  if (p.dim % 128 != 0 || p.hidden_dim % 128 != 0 || a.heads * a.head_dim != p.dim ||
      a.latents > kMostLatentsHere || a.cache.page_steps * a.latents % kBlock != 0)
    return false;
  const bool few = a.steps * a.latents <= 8;
  if (a.head_dim == 32) return few ? launch_stay<32, 1>(p, stream) : launch_stay<32, 2>(p, stream);
  if (a.head_dim == 64) return few ? launch_stay<64, 1>(p, stream) : launch_stay<64, 2>(p, stream);
  return false;
}

}  // namespace cortex::cuda
