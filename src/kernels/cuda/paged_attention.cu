#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// Attention of streams over their pages. A page holds, for each layer and head, K [keys, head_dim]
/// and V; for the tensor cores V is kept [head_dim, 32] in blocks of 32 keys.
namespace cortex::cuda {
namespace {

constexpr int kThreads = 128;  // of the plain kernel
constexpr int kWarps = kThreads / kWarp;
constexpr int kMmaWarps = 8;  // of the fast one: as many blocks of 32 keys are fetched at once
constexpr int kMmaThreads = kMmaWarps * kWarp;
constexpr int kBlock = 32;        // keys that a warp takes at once
constexpr int kMostLatents = 16;  // rows of an mma
constexpr int kMostParts = 8;     // heads of up to 256

/// Where one page of a stream keeps a head of a layer.
template <class T>
struct PageView {
  T* k;
  T* v;
};
template <class T>
__device__ PageView<T> page_of(const PagedAttentionArgs& a, int b, int page, int head) {
  const std::int64_t index = a.cache.pages[a.cache.indptr[b] + page];
  const std::int64_t keys = std::int64_t{a.cache.page_steps} * a.latents;
  const std::int64_t head_elements = keys * a.head_dim;
  const std::int64_t layer_elements = head_elements * a.heads;
  T* const base = reinterpret_cast<T*>(a.cache.pool + index * a.cache.page_bytes);
  T* const k = base + 2 * a.layer * layer_elements + head * head_elements;
  return {k, k + layer_elements};
}

/// q and k of one pair of dimensions, turned.
template <class X>
__device__ float2 turned(const X* x, int pair, int half, float cosine, float sine) {
  const float a = widen(x[pair]), b = widen(x[pair + half]);
  return {fmaf(a, cosine, -b * sine), fmaf(a, sine, b * cosine)};
}

/// Whether slot s of the window holds one of the live steps.
__device__ bool is_live(int s, int slot, int live, int window) {
  int age = slot - s;
  if (age < 0) age += window;
  return s < window && age < live;
}

/// Where a warp's block of 32 keys lies, and its K and V as the mma take them. Column 2 t + e of
/// score tile j is key 8 t + 2 j + e, so that a lane's scores are the weights of eight keys in a
/// row, as V's words are.
template <int kHeadDim>
struct KeyBlock {
  static constexpr int kParts = kHeadDim / 32;  // of 64 bytes of a row
  static constexpr int kTiles = kHeadDim / 8;   // of 8 columns of the output
  uint4 k[4][kParts];
  uint4 v[kTiles];

  __device__ void load(const PageView<Bf16>& page, int within) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int p = 0; p < kParts; ++p)
        k[j][p] = *reinterpret_cast<const uint4*>(
            page.k + (within + 8 * (g / 2) + 2 * j + g % 2) * kHeadDim + p * 32 + 8 * t);
#pragma unroll
    for (int i = 0; i < kTiles; ++i)
      v[i] = *reinterpret_cast<const uint4*>(page.v + within * kHeadDim + (i * 8 + g) * kBlock +
                                             8 * t);
  }
};

/// bf16, at most 16 latents, pages of whole blocks: a block a stream and head. Warps take the
/// window's blocks of keys in turn, by number, and are merged first to last. What earlier forwards
/// left in the cache is fetched before the kernel before this one has ended.
/// kHalves: 1 for up to 8 latents, 2 for more.
template <int kHeadDim, int kHalves>
__global__ void __launch_bounds__(kMmaThreads, 2) paged_mma(const PagedAttentionArgs a) {
  constexpr int kHalf = kHeadDim / 2;
  constexpr int kParts = KeyBlock<kHeadDim>::kParts;
  constexpr int kTiles = KeyBlock<kHeadDim>::kTiles;
  constexpr float kLog2E = 1.4426950408889634f;
  __shared__ __align__(16) Bf16 q_rows[kMostLatents][kHeadDim];
  extern __shared__ float outs[];  // [kMmaWarps][latents][kHeadDim]
  __shared__ float tops[kMmaWarps][kMostLatents], totals[kMmaWarps][kMostLatents];
  const int b = blockIdx.x, head = blockIdx.y;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int slot = a.cache.slot[b], live = a.cache.live[b], window = a.cache.window_steps;
  const std::int64_t dim = std::int64_t{a.heads} * kHeadDim;
  const std::int64_t row0 = std::int64_t{b} * a.latents;
  Bf16* const out = reinterpret_cast<Bf16*>(a.out.data) + row0 * a.out.stride + head * kHeadDim;
  const int page_blocks = a.cache.page_steps * a.latents / kBlock;
  const int blocks = (window + a.cache.page_steps - 1) / a.cache.page_steps * page_blocks;
  KeyBlock<kHeadDim> keys;
  if (live > 0 && warp < blocks)
    keys.load(page_of<Bf16>(a, b, warp / page_blocks, head), warp % page_blocks * kBlock);
  begin_kernel();
  if (live == 0) {
    for (int i = threadIdx.x; i < a.latents * kHeadDim; i += kMmaThreads)
      out[i / kHeadDim * a.out.stride + i % kHeadDim] = __float2bfloat16_rn(0);
    return;
  }
  {
    const int page = slot / a.cache.page_steps;
    const PageView<Bf16> to = page_of<Bf16>(a, b, page, head);
    const int key0 = slot % a.cache.page_steps * a.latents;
    const Bf16* const qkv =
        reinterpret_cast<const Bf16*>(a.qkv.data) + row0 * a.qkv.stride + head * kHeadDim;
    for (int i = threadIdx.x; i < kMostLatents * kHalf; i += kMmaThreads) {
      const int r = i / kHalf, pair = i % kHalf;
      float2 q = {0, 0};
      if (r < a.latents) {
        const Bf16* const row = qkv + r * a.qkv.stride;
        const float cosine = a.cosines[std::int64_t{b} * kHalf + pair];
        const float sine = a.sines[std::int64_t{b} * kHalf + pair];
        q = turned(row, pair, kHalf, cosine, sine);
        const float2 k = turned(row + dim, pair, kHalf, cosine, sine);
        Bf16* const key = to.k + (key0 + r) * kHeadDim;
        key[pair] = __float2bfloat16_rn(k.x);
        key[pair + kHalf] = __float2bfloat16_rn(k.y);
      }
      q_rows[r][pair] = __float2bfloat16_rn(q.x);
      q_rows[r][pair + kHalf] = __float2bfloat16_rn(q.y);
    }
    for (int i = threadIdx.x; i < a.latents * kHeadDim; i += kMmaThreads) {
      const int r = i / kHeadDim, d = i % kHeadDim, key = key0 + r;
      to.v[key / kBlock * kBlock * kHeadDim + d * kBlock + key % kBlock] =
          qkv[r * a.qkv.stride + 2 * dim + d];
    }
  }
  __syncthreads();
  uint4 q[2][kParts];
#pragma unroll
  for (int p = 0; p < kParts; ++p) {
    q[0][p] = *reinterpret_cast<const uint4*>(&q_rows[g][p * 32 + 8 * t]);
    q[1][p] = *reinterpret_cast<const uint4*>(&q_rows[g + 8][p * 32 + 8 * t]);
  }
  const float scale = rsqrtf(static_cast<float>(kHeadDim)) * kLog2E;
  // Blocks that hold rows of the present step.
  const int first_new = slot * a.latents / kBlock;
  const int last_new = (slot * a.latents + a.latents - 1) / kBlock;
  float sums[kTiles][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  for (int block = warp; block < blocks; block += kMmaWarps) {
    const int page = block / page_blocks, within = block % page_blocks * kBlock;
    if (block >= kMmaWarps || (block >= first_new && block <= last_new))
      keys.load(page_of<Bf16>(a, b, page, head), within);
    float s[4][4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int p = 0; p < kParts; ++p) mma_64_bytes(s[j], q[0][p], q[1][p], keys.k[j][p]);
    if (live < window || (block + 1) * kBlock > window * a.latents) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int key = within + 8 * t + 2 * j + e;
          if (!is_live(page * a.cache.page_steps + key / a.latents, slot, live, window))
            s[j][e] = s[j][e + 2] = -INFINITY;
        }
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      float h = -INFINITY;
#pragma unroll
      for (int j = 0; j < 4; ++j) h = fmaxf(h, fmaxf(s[j][half * 2], s[j][half * 2 + 1]));
      h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 1));
      h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 2));
      h = fmaxf(h, top[half]);
      const float base = h == -INFINITY ? 0.0f : h * scale;
      const float shrink = exp2_fast(fmaf(top[half], scale, -base));
      top[half] = h;
      float sum = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float& weight = s[j][half * 2 + e];
          weight = exp2_fast(fmaf(weight, scale, -base));
          sum += weight;
        }
      total[half] = fmaf(total[half], shrink, sum);
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        sums[i][half * 2] *= shrink;
        sums[i][half * 2 + 1] *= shrink;
      }
    }
    std::uint32_t weights[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      weights[j][0] = pack_bf16(s[j][0], s[j][1]);
      weights[j][1] = kHalves == 2 ? pack_bf16(s[j][2], s[j][3]) : 0U;
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      mma(sums[i], weights[0][0], weights[0][1], weights[1][0], weights[1][1], keys.v[i].x,
          keys.v[i].y);
      mma(sums[i], weights[2][0], weights[2][1], weights[3][0], weights[3][1], keys.v[i].z,
          keys.v[i].w);
    }
  }
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    float sum = total[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    const int r = g + half * 8;
    if (r >= a.latents) continue;
    if (t == 0) {
      tops[warp][r] = top[half];
      totals[warp][r] = sum;
    }
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      float* const to = outs + (warp * a.latents + r) * kHeadDim + i * 8 + 2 * t;
      to[0] = sums[i][half * 2];
      to[1] = sums[i][half * 2 + 1];
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < a.latents * kHeadDim; i += kMmaThreads) {
    const int r = i / kHeadDim, d = i % kHeadDim;
    float highest = tops[0][r];
    for (int w = 1; w < kMmaWarps; ++w) highest = fmaxf(highest, tops[w][r]);
    float sum = 0, weight = 0;
#pragma unroll
    for (int w = 0; w < kMmaWarps; ++w) {
      const float share = exp2_fast((tops[w][r] - highest) * scale);
      sum = fmaf(outs[w * a.latents * kHeadDim + i], share, sum);
      weight = fmaf(totals[w][r], share, weight);
    }
    out[r * a.out.stride + d] = __float2bfloat16_rn(sum / weight);
  }
}

/// Any type and size: a block a stream and head, a warp a latent, 32 keys at a time in order of
/// slots.
template <class X, class T>
__global__ void __launch_bounds__(kThreads) paged_plain(const PagedAttentionArgs a) {
  extern __shared__ float q_turned[];  // [latents][head_dim]
  begin_kernel();
  const int b = blockIdx.x, head = blockIdx.y;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int slot = a.cache.slot[b], live = a.cache.live[b], window = a.cache.window_steps;
  const int half = a.head_dim / 2;
  const std::int64_t dim = std::int64_t{a.heads} * a.head_dim;
  const std::int64_t row0 = std::int64_t{b} * a.latents;
  const X* const qkv =
      reinterpret_cast<const X*>(a.qkv.data) + row0 * a.qkv.stride + head * a.head_dim;
  X* const out = reinterpret_cast<X*>(a.out.data) + row0 * a.out.stride + head * a.head_dim;
  if (live == 0) {
    for (int i = threadIdx.x; i < a.latents * a.head_dim; i += kThreads)
      out[i / a.head_dim * a.out.stride + i % a.head_dim] = narrow_to<X>(0);
    return;
  }
  const PageView<T> to = page_of<T>(a, b, slot / a.cache.page_steps, head);
  const int key0 = slot % a.cache.page_steps * a.latents;
  for (int i = threadIdx.x; i < a.latents * half; i += kThreads) {
    const int r = i / half, pair = i % half;
    const X* const row = qkv + r * a.qkv.stride;
    const float cosine = a.cosines[std::int64_t{b} * half + pair];
    const float sine = a.sines[std::int64_t{b} * half + pair];
    const float2 q = turned(row, pair, half, cosine, sine);
    const float2 k = turned(row + dim, pair, half, cosine, sine);
    q_turned[r * a.head_dim + pair] = q.x;
    q_turned[r * a.head_dim + pair + half] = q.y;
    T* const key = to.k + (key0 + r) * a.head_dim;
    key[pair] = narrow_to<T>(k.x);
    key[pair + half] = narrow_to<T>(k.y);
  }
  for (int i = threadIdx.x; i < a.latents * a.head_dim; i += kThreads) {
    const int r = i / a.head_dim, d = i % a.head_dim;
    to.v[(key0 + r) * a.head_dim + d] = narrow_to<T>(widen(qkv[r * a.qkv.stride + 2 * dim + d]));
  }
  __syncthreads();
  const float scale = rsqrtf(static_cast<float>(a.head_dim));
  const int page_keys = a.cache.page_steps * a.latents;
  const int pages = (window + a.cache.page_steps - 1) / a.cache.page_steps;
  for (int r = warp; r < a.latents; r += kWarps) {
    const float* const q = q_turned + r * a.head_dim;
    float sums[kMostParts] = {};
    float top = -INFINITY, total = 0;
    for (int page = 0; page < pages; ++page) {
      const PageView<T> from = page_of<T>(a, b, page, head);
      for (int first = 0; first < page_keys; first += kWarp) {
        const int key = first + lane;
        const bool seen = key < page_keys &&
                          is_live(page * a.cache.page_steps + key / a.latents, slot, live, window);
        if (!__any_sync(kAllLanes, seen)) continue;
        float score = -INFINITY;
        if (seen) {
          const T* const k = from.k + key * a.head_dim;
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
          const T* const v = from.v + (first + j) * a.head_dim;
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

void paged_attention(const PagedAttentionArgs& a, cudaStream_t stream) {
  if (a.steps == 0) return;
  const dim3 grid(static_cast<unsigned>(a.steps), static_cast<unsigned>(a.heads));
  const bool wide = a.qkv.dtype == DType::f32, wide_cache = a.cache.dtype == DType::f32;
  if (!wide && !wide_cache && (a.head_dim == 32 || a.head_dim == 64) && a.latents <= kMostLatents &&
      a.cache.page_steps * a.latents % kBlock == 0) {
    auto* const kernel = a.latents <= 8 ? (a.head_dim == 32 ? paged_mma<32, 1> : paged_mma<64, 1>)
                                        : (a.head_dim == 32 ? paged_mma<32, 2> : paged_mma<64, 2>);
    launch(kernel, grid, kMmaThreads,
           sizeof(float) * static_cast<std::size_t>(kMmaWarps * a.latents * a.head_dim), stream, a);
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
