#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ragged_attention.cuh"
#include "kernels/cuda/ragged_attention_sm90.h"

/// Attention of windows: over events, behind the band mask, and among latents.
namespace cortex::cuda {
namespace {

constexpr int kHeadDim = 64;    // of the fast kernels
constexpr int kKeys = 64;       // of a tile
constexpr int kListed = 512;    // tiles looked through at once
constexpr int kFull = 1 << 30;  // every query of the block sees every key of the tile

/// 16 bytes of bf16 of a query's row.
template <class Q>
__device__ uint4 query_part(const Q* p);
template <>
__device__ uint4 query_part<Bf16>(const Bf16* p) {
  return *reinterpret_cast<const uint4*>(p);
}
template <>
__device__ uint4 query_part<float>(const float* p) {
  const float4 a = *reinterpret_cast<const float4*>(p);
  const float4 b = *reinterpret_cast<const float4*>(p + 4);
  return {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
}

__device__ inline void load_transposed(std::uint32_t (&r)[4], const void* shared) {
  const auto from = static_cast<std::uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(from));
}

/// bf16, heads of 64: a block 16 queries a warp of one head, tiles of 64 keys, online softmax.
/// Tiles that no query of the block sees are not fetched.
template <class Q, int kWarps>
__global__ void __launch_bounds__(kWarps* kWarp) flash(const RaggedAttentionArgs a) {
  constexpr int kThreads = kWarps * kWarp, kQueries = kWarps * 16;
  constexpr float kLog2E = 1.4426950408889634f;
  __shared__ uint4 k_tiles[2][kKeys * 8];
  __shared__ uint4 v_tiles[2][kKeys * 8];
  __shared__ int list[kListed];
  __shared__ int listed;
  begin_kernel();
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int g = lane / 4, t = lane % 4;
  const int head = blockIdx.y, item = blockIdx.z;
  const std::int64_t q0 = static_cast<std::int64_t>(blockIdx.x) * kQueries;
  const int begin = a.indptr[item], end = a.indptr[item + 1];
  const std::int64_t at = static_cast<std::int64_t>(head) * kHeadDim;
  const Bf16* const k_rows = reinterpret_cast<const Bf16*>(a.k.data) + at;
  const Bf16* const v_rows = reinterpret_cast<const Bf16*>(a.v.data) + at;

  // Rows g and g + 8 of this warp.
  uint4 q[2][2] = {};
  Band band[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const std::int64_t i = q0 + warp * 16 + g + half * 8;
    if (i >= a.queries) continue;
    const Q* const row = reinterpret_cast<const Q*>(a.q.data) +
                         (a.shared_q ? i : item * a.queries + i) * a.q.stride + at;
    q[half][0] = query_part(row + 8 * t);
    q[half][1] = query_part(row + 32 + 8 * t);
    band[half] = band_of(a, item, i);
  }
  const Band first = band_of(a, item, q0);
  const Band last = band_of(a, item, min(q0 + kQueries, a.queries) - 1);

  const auto fetch = [&](int stage, int tile) {
    for (int i = threadIdx.x; i < kKeys * 8; i += kThreads) {
      const int row = i / 8, part = i % 8;
      const std::int64_t key = begin + static_cast<std::int64_t>(tile) * kKeys + row;
      const bool valid = key < end;
      const std::int64_t from = valid ? key : begin;
      copy_16_async(&k_tiles[stage][row * 8 + (part ^ ((row & 1) << 2))],
                    k_rows + from * a.k.stride + part * 8, valid);
      copy_16_async(&v_tiles[stage][row * 8 + (part ^ (row & 7))],
                    v_rows + from * a.v.stride + part * 8, valid);
    }
  };

  float out[8][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
  const float scale = rsqrtf(static_cast<float>(kHeadDim)) * kLog2E;
  const int tiles = (end - begin + kKeys - 1) / kKeys;
  for (int base = 0; base < tiles; base += kListed) {
    const int looked = min(kListed, tiles - base);
    __syncthreads();
    if (a.key_bins) {
      for (int i = warp; i < looked; i += kWarps) {
        int lowest = INT32_MAX, highest = INT32_MIN;
        for (int key = begin + (base + i) * kKeys + lane;
             key < min(end, begin + (base + i + 1) * kKeys); key += kWarp) {
          lowest = min(lowest, a.key_bins[key]);
          highest = max(highest, a.key_bins[key]);
        }
        lowest = __reduce_min_sync(kAllLanes, lowest);
        highest = __reduce_max_sync(kAllLanes, highest);
        if (lane == 0) {
          const bool none = highest < first.low || lowest > last.high;
          const bool all = lowest >= last.low && highest <= first.high;
          list[i] = none ? -1 : (base + i) | (all ? kFull : 0);
        }
      }
      __syncthreads();
      if (threadIdx.x == 0) {
        listed = 0;
        for (int i = 0; i < looked; ++i)
          if (list[i] >= 0) list[listed++] = list[i];
      }
    } else {
      for (int i = threadIdx.x; i < looked; i += kThreads) list[i] = (base + i) | kFull;
      if (threadIdx.x == 0) listed = looked;
    }
    __syncthreads();
    const int count = listed;
    if (count > 0) fetch(0, list[0] & ~kFull);
    commit_copies();
    for (int n = 0; n < count; ++n) {
      if (n + 1 < count) fetch((n + 1) % 2, list[n + 1] & ~kFull);
      commit_copies();
      wait_copies<1>();
      __syncthreads();
      const int tile = list[n] & ~kFull;
      const int key0 = begin + tile * kKeys;
      const bool whole = (list[n] & kFull) && key0 + kKeys <= end;
      const uint4* const keys = k_tiles[n % 2];
      float s[8][4] = {};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const int row = j * 8 + g;
#pragma unroll
        for (int half = 0; half < 2; ++half)
          mma_64_bytes(s[j], q[0][half], q[1][half],
                       keys[row * 8 + ((half * 4 + t) ^ ((row & 1) << 2))]);
      }
      if (!whole) {
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const int key = key0 + j * 8 + 2 * t + e;
            const bool there = key < end;
            const int bin = there && a.key_bins ? a.key_bins[key] : 0;
#pragma unroll
            for (int half = 0; half < 2; ++half)
              if (!there || bin < band[half].low || bin > band[half].high)
                s[j][half * 2 + e] = -INFINITY;
          }
        }
      }
      float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) highest[e / 2] = fmaxf(highest[e / 2], s[j][e]);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float h = highest[half];
        h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 1));
        h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 2));
        h = fmaxf(h, top[half]);
        const float base_of = h == -INFINITY ? 0.0f : h * scale;
        const float shrink = exp2_fast(fmaf(top[half], scale, -base_of));
        top[half] = h;
        float sum = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) {
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            float& weight = s[j][half * 2 + e];
            weight = exp2_fast(fmaf(weight, scale, -base_of));
            sum += weight;
          }
          out[j][half * 2] *= shrink;
          out[j][half * 2 + 1] *= shrink;
        }
        total[half] = fmaf(total[half], shrink, sum);
      }
      const uint4* const values = v_tiles[n % 2];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const std::uint32_t a0 = pack_bf16(s[2 * j][0], s[2 * j][1]);
        const std::uint32_t a1 = pack_bf16(s[2 * j][2], s[2 * j][3]);
        const std::uint32_t a2 = pack_bf16(s[2 * j + 1][0], s[2 * j + 1][1]);
        const std::uint32_t a3 = pack_bf16(s[2 * j + 1][2], s[2 * j + 1][3]);
        const int row = j * 16 + (lane / 8 & 1) * 8 + lane % 8;
#pragma unroll
        for (int d = 0; d < 8; d += 2) {
          std::uint32_t b[4];
          load_transposed(b, &values[row * 8 + ((d + lane / 16) ^ (row & 7))]);
          mma(out[d], a0, a1, a2, a3, b[0], b[1]);
          mma(out[d + 1], a0, a1, a2, a3, b[2], b[3]);
        }
      }
      __syncthreads();
    }
    wait_copies<0>();
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = total[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    const std::int64_t i = q0 + warp * 16 + g + half * 8;
    if (i >= a.queries) continue;
    Bf16* const row =
        reinterpret_cast<Bf16*>(a.out.data) + (item * a.queries + i) * a.out.stride + at;
#pragma unroll
    for (int d = 0; d < 8; ++d)
      *reinterpret_cast<std::uint32_t*>(row + d * 8 + 2 * t) =
          pack_bf16(out[d][half * 2] * inverse, out[d][half * 2 + 1] * inverse);
  }
}

constexpr int kMostParts = 8;  // heads of up to 256

/// Any type and size of head: a warp a query of a head, 32 keys at a time.
template <class Q, class T>
__global__ void __launch_bounds__(4 * kWarp) plain(const RaggedAttentionArgs a) {
  begin_kernel();
  const int lane = threadIdx.x % kWarp;
  const std::int64_t i = static_cast<std::int64_t>(blockIdx.x) * 4 + threadIdx.x / kWarp;
  const int head = blockIdx.y, item = blockIdx.z;
  if (i >= a.queries) return;
  const int begin = a.indptr[item], end = a.indptr[item + 1];
  const std::int64_t at = static_cast<std::int64_t>(head) * a.head_dim;
  const Q* const q = reinterpret_cast<const Q*>(a.q.data) +
                     (a.shared_q ? i : item * a.queries + i) * a.q.stride + at;
  const Band band = band_of(a, item, i);
  const float scale = rsqrtf(static_cast<float>(a.head_dim));
  float sums[kMostParts] = {};
  float top = -INFINITY, total = 0;
  for (int first = begin; first < end; first += kWarp) {
    const int key = first + lane;
    bool seen = key < end;
    if (seen && a.key_bins) seen = a.key_bins[key] >= band.low && a.key_bins[key] <= band.high;
    if (!__any_sync(kAllLanes, seen)) continue;
    float score = -INFINITY;
    if (seen) {
      const T* const k = reinterpret_cast<const T*>(a.k.data) + key * a.k.stride + at;
      float sum = 0;
      for (int d = 0; d < a.head_dim; ++d) sum = fmaf(widen(q[d]), widen(k[d]), sum);
      score = scale * sum;
    }
    const float highest = fmaxf(top, warp_max(score));
    const float shrink = expf(top - highest);
    const float weight = seen ? expf(score - highest) : 0.0f;
    top = highest;
    total = fmaf(total, shrink, warp_sum(weight));
#pragma unroll
    for (int p = 0; p < kMostParts; ++p) sums[p] *= shrink;
    for (int j = 0; j < min(kWarp, end - first); ++j) {
      const float w = __shfl_sync(kAllLanes, weight, j);
      const T* const v = reinterpret_cast<const T*>(a.v.data) + (first + j) * a.v.stride + at;
#pragma unroll
      for (int p = 0; p < kMostParts; ++p) {
        const int d = p * kWarp + lane;
        if (d < a.head_dim) sums[p] = fmaf(w, widen(v[d]), sums[p]);
      }
    }
  }
  T* const out = reinterpret_cast<T*>(a.out.data) + (item * a.queries + i) * a.out.stride + at;
#pragma unroll
  for (int p = 0; p < kMostParts; ++p) {
    const int d = p * kWarp + lane;
    if (d < a.head_dim) out[d] = narrow_to<T>(total > 0 ? sums[p] / total : 0.0f);
  }
}

template <class Q>
void launch_flash(const RaggedAttentionArgs& a, cudaStream_t stream) {
  constexpr std::int64_t kFill = 132;
  const auto grid = [&](int queries) {
    return dim3(blocks_of(a.queries, queries), static_cast<unsigned>(a.heads),
                static_cast<unsigned>(a.items));
  };
  const dim3 large = grid(64);
  if (static_cast<std::int64_t>(large.x) * large.y * large.z >= kFill)
    launch(flash<Q, 4>, large, 4 * kWarp, 0, stream, a);
  else
    launch(flash<Q, 2>, grid(32), 2 * kWarp, 0, stream, a);
}

}  // namespace

void ragged_attention(const RaggedAttentionArgs& a, bool hopper, cudaStream_t stream) {
  if (a.items == 0 || a.queries == 0) return;
  if (hopper && ragged_attention_sm90_takes(a)) return ragged_attention_sm90(a, stream);
  const bool wide_q = a.q.dtype == DType::f32;
  if (a.k.dtype == DType::bf16 && a.head_dim == kHeadDim && a.k.stride % 8 == 0 &&
      a.v.stride % 8 == 0 && a.q.stride % 8 == 0 && a.out.stride % 2 == 0)
    return wide_q ? launch_flash<float>(a, stream) : launch_flash<Bf16>(a, stream);
  if (a.head_dim > kMostParts * kWarp)
    check(cudaErrorInvalidValue, "ragged_attention: heads of more than 256");
  const dim3 grid(blocks_of(a.queries, 4), static_cast<unsigned>(a.heads),
                  static_cast<unsigned>(a.items));
  auto* const kernel = a.k.dtype == DType::bf16
                           ? (wide_q ? plain<float, Bf16> : plain<Bf16, Bf16>)
                           : (wide_q ? plain<float, float> : plain<Bf16, float>);
  launch(kernel, grid, 4 * kWarp, 0, stream, a);
}

}  // namespace cortex::cuda
