#include "kernels/cuda/launch.h"
#include "kernels/cuda/paged_page.cuh"

/// Attention of streams over their pages. Pages of bf16 that the tensor cores can take are as
/// paged_page.cuh has them; others hold, for each layer and head, K [keys, head_dim] and V.
namespace cortex::cuda {
namespace {

constexpr int kThreads = 128;  // of the plain kernel
constexpr int kWarps = kThreads / kWarp;
constexpr int kMmaWarps = 8;  // of the fast one: as many blocks of 32 keys are fetched at once
constexpr int kMmaThreads = kMmaWarps * kWarp;
constexpr int kMostParts = 8;  // heads of up to 256

/// bf16, at most 16 latents, pages of whole blocks: a block a stream and head. Warps take the
/// window's blocks of keys in turn, by number, and are merged first to last.
/// kHalves: 1 for up to 8 latents, 2 for more.
template <int kHeadDim, int kHalves>
__global__ void __launch_bounds__(kMmaThreads, 3 - kHalves) paged_mma(const PagedAttentionArgs a) {
  using Layout = BlockLayout<kHeadDim>;
  using Part = PartAttention<kHeadDim, kHalves>;
  extern __shared__ float sums[];  // [kMmaWarps][latents][kPartStride]
  __shared__ float tops[kMmaWarps][kMostLatents], totals[kMmaWarps][kMostLatents];
  begin_kernel();
  const int b = blockIdx.x, head = blockIdx.y, warp = threadIdx.x / kWarp;
  const LiveWindow seen{a.cache.slot[b], a.cache.live[b], a.cache.window_steps, a.latents};
  const int page_blocks = a.cache.page_steps * a.latents / kBlock;
  const int first_page = a.cache.indptr[b];
  const auto block_at = [&](int number) {
    return page_head<Bf16>(a, a.cache.pages[first_page + number / page_blocks], head) +
           number % page_blocks * Layout::kElements;
  };
  StepInputs<kHeadDim, kHalves> inputs;
  inputs.load(a, b, head);
  const StepRows<kHeadDim, kHalves> rows = inputs.turn_all();
  for (int number = warp; number < seen.blocks(); number += kMmaWarps)
    if (holds_step(seen, number)) put_rows(rows, seen, number, block_at(number), block_at(number));
  Part part;
  for (int number = warp; number < seen.blocks(); number += kMmaWarps)
    if (const int chunks = seen.chunks(number); chunks > 0)
      part.add(rows, block_at(number), number, chunks, seen);
  part.store(a.latents, sums + warp * a.latents * Part::kPartStride, tops[warp], totals[warp]);
  __syncthreads();
  merge_parts<kHeadDim, kMmaWarps>(a, b, head, kMmaWarps, sums, tops[0], totals[0], seen.live > 0,
                                   kMmaThreads);
}

/// q and k of one pair of dimensions, turned.
template <class X>
__device__ float2 turned_pair(const X* x, int pair, int half, float cosine, float sine) {
  const float a = widen(x[pair]), b = widen(x[pair + half]);
  return {fmaf(a, cosine, -b * sine), fmaf(a, sine, b * cosine)};
}

/// Any type and size: a block a stream and head, a warp a latent, 32 keys at a time in order of
/// slots.
template <class X, class T>
__global__ void __launch_bounds__(kThreads) paged_plain(const PagedAttentionArgs a) {
  extern __shared__ float q_turned[];  // [latents][head_dim]
  begin_kernel();
  const int b = blockIdx.x, head = blockIdx.y;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const LiveWindow window{a.cache.slot[b], a.cache.live[b], a.cache.window_steps, a.latents};
  const int half = a.head_dim / 2;
  const std::int64_t dim = std::int64_t{a.heads} * a.head_dim;
  const std::int64_t row0 = std::int64_t{b} * a.latents;
  const X* const qkv =
      reinterpret_cast<const X*>(a.qkv.data) + row0 * a.qkv.stride + head * a.head_dim;
  X* const out = reinterpret_cast<X*>(a.out.data) + row0 * a.out.stride + head * a.head_dim;
  if (window.live == 0) {
    for (int i = threadIdx.x; i < a.latents * a.head_dim; i += kThreads)
      out[i / a.head_dim * a.out.stride + i % a.head_dim] = narrow_to<X>(0);
    return;
  }
  const int page_keys = a.cache.page_steps * a.latents;
  const std::int32_t* const pages_of = a.cache.pages + a.cache.indptr[b];
  const auto k_of = [&](int page) { return page_head<T>(a, pages_of[page], head); };
  T* const new_k = k_of(window.slot / a.cache.page_steps);
  T* const new_v = new_k + page_keys * a.head_dim;
  const int key0 = window.slot % a.cache.page_steps * a.latents;
  for (int i = threadIdx.x; i < a.latents * half; i += kThreads) {
    const int r = i / half, pair = i % half;
    const X* const row = qkv + r * a.qkv.stride;
    const float cosine = a.cosines[std::int64_t{b} * half + pair];
    const float sine = a.sines[std::int64_t{b} * half + pair];
    const float2 q = turned_pair(row, pair, half, cosine, sine);
    const float2 k = turned_pair(row + dim, pair, half, cosine, sine);
    q_turned[r * a.head_dim + pair] = q.x;
    q_turned[r * a.head_dim + pair + half] = q.y;
    T* const key = new_k + (key0 + r) * a.head_dim;
    key[pair] = narrow_to<T>(k.x);
    key[pair + half] = narrow_to<T>(k.y);
  }
  for (int i = threadIdx.x; i < a.latents * a.head_dim; i += kThreads) {
    const int r = i / a.head_dim, d = i % a.head_dim;
    new_v[(key0 + r) * a.head_dim + d] = narrow_to<T>(widen(qkv[r * a.qkv.stride + 2 * dim + d]));
  }
  __syncthreads();
  const float scale = rsqrtf(static_cast<float>(a.head_dim));
  const int pages = (window.window + a.cache.page_steps - 1) / a.cache.page_steps;
  for (int r = warp; r < a.latents; r += kWarps) {
    const float* const q = q_turned + r * a.head_dim;
    float sums[kMostParts] = {};
    float top = -INFINITY, total = 0;
    for (int page = 0; page < pages; ++page) {
      const T* const keys = k_of(page);
      const T* const values = keys + page_keys * a.head_dim;
      for (int first = 0; first < page_keys; first += kWarp) {
        const int key = first + lane;
        const bool seen = key < page_keys && window.sees(page * page_keys + key);
        if (!__any_sync(kAllLanes, seen)) continue;
        float score = -INFINITY;
        if (seen) {
          const T* const k = keys + key * a.head_dim;
          float sum = 0;
          for (int d = 0; d < a.head_dim; ++d) sum = fmaf(q[d], widen(k[d]), sum);
          score = scale * sum;
        }
        const float highest = fmaxf(top, warp_max(score));
        const float shrink = expf(top - highest);
        const float weight = seen ? expf(score - highest) : 0.0f;
        top = highest;
        total = fmaf(total, shrink, warp_sum(weight));
#pragma unroll
        for (int p = 0; p < kMostParts; ++p) sums[p] *= shrink;
        for (int j = 0; j < min(kWarp, page_keys - first); ++j) {
          const float w = __shfl_sync(kAllLanes, weight, j);
          const T* const v = values + (first + j) * a.head_dim;
#pragma unroll
          for (int p = 0; p < kMostParts; ++p) {
            const int d = p * kWarp + lane;
            if (d < a.head_dim) sums[p] = fmaf(w, widen(v[d]), sums[p]);
          }
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kMostParts; ++p) {
      const int d = p * kWarp + lane;
      if (d < a.head_dim) out[r * a.out.stride + d] = narrow_to<X>(sums[p] / total);
    }
  }
}

}  // namespace

void paged_attention(const PagedAttentionArgs& a, bool hopper, cudaStream_t stream) {
  if (a.steps == 0) return;
  const dim3 grid(static_cast<unsigned>(a.steps), static_cast<unsigned>(a.heads));
  const bool wide = a.qkv.dtype == DType::f32, wide_cache = a.cache.dtype == DType::f32;
  if (!wide && !wide_cache && (a.head_dim == 32 || a.head_dim == 64) && a.latents <= kMostLatents &&
      a.cache.page_steps * a.latents % kBlock == 0) {
    if (hopper) return paged_attention_sm90(a, stream);
    auto* const kernel = a.latents <= 8 ? (a.head_dim == 32 ? paged_mma<32, 1> : paged_mma<64, 1>)
                                        : (a.head_dim == 32 ? paged_mma<32, 2> : paged_mma<64, 2>);
    const std::size_t bytes =
        sizeof(float) * static_cast<std::size_t>(kMmaWarps * a.latents * part_stride(a.head_dim));
    allow_shared(kernel, bytes);
    launch(kernel, grid, kMmaThreads, bytes, stream, a);
    return;
  }
  if (a.head_dim > kMostParts * kWarp)
    check(cudaErrorInvalidValue, "paged_attention: heads of more than 256");
  auto* const kernel = wide ? (wide_cache ? paged_plain<float, float> : paged_plain<float, Bf16>)
                            : (wide_cache ? paged_plain<Bf16, float> : paged_plain<Bf16, Bf16>);
  const std::size_t bytes = sizeof(float) * static_cast<std::size_t>(a.latents * a.head_dim);
  launch(kernel, grid, kThreads, bytes, stream, a);
}

}  // namespace cortex::cuda
