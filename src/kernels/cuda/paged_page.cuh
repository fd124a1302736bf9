#pragma once

#include "kernels/cuda/device.cuh"

/// A stream's page as the tensor cores take it, and one warp's part of the attention over it. For a
/// layer and head a page is blocks of 32 keys, a block four chunks of 8 keys, and a chunk K
/// [head_dim / 32, 8, 32], then V [head_dim, 8]: whatever the window leaves of a page is one run.
/// Row d of V lies in place d xor 2 (chunk mod 4), so that neither K nor V of a block have bank
/// conflicts in shared memory.
namespace cortex::cuda {

constexpr int kBlock = 32;  // keys that a warp takes at once
constexpr int kChunkKeys = 8;
constexpr int kMostLatents = 16;  // rows of an mma
/// Floats between rows of a warp's sums: those of four rows start in different banks.
constexpr int part_stride(int head_dim) { return head_dim + 8; }

constexpr int kMostKeyWarps = 7;
/// How a head's keys are shared by warps on sm_90. What is summed in which order depends on the
/// window alone: block i goes to warp i mod `warps`.
struct KeyRounds {
  int blocks = 0;  // of an item, of 32 keys
  int warps = 0;   // each takes a block a round
  int rounds = 0;

  KeyRounds() = default;
  KeyRounds(int window_steps, int latents)
      : blocks((window_steps * latents + kBlock - 1) / kBlock) {
    rounds = (blocks + kMostKeyWarps - 1) / kMostKeyWarps;
    warps = (blocks + rounds - 1) / rounds;
  }
};

#ifdef __CUDACC__

/// Where page `page` of the pool keeps a head of the layer: K and V of all its keys.
template <class T>
__device__ T* page_head(const PagedAttentionArgs& a, std::int64_t page, int head) {
  const std::int64_t elements = std::int64_t{2} * a.cache.page_steps * a.latents * a.head_dim;
  return reinterpret_cast<T*>(a.cache.pool + page * a.cache.page_bytes) +
         (std::int64_t{a.layer} * a.heads + head) * elements;
}

/// Which steps of a stream's window are attended to.
struct LiveWindow {
  int slot, live, window, latents;

  __device__ bool has(int s) const {
    int age = slot - s;
    if (age < 0) age += window;
    return s < window && age < live;
  }
  /// Blocks that hold the window.
  __device__ int blocks() const { return (window * latents + kBlock - 1) / kBlock; }
  /// Chunks of a block, from its first on, that hold every key of it that is seen.
  __device__ int chunks(int block) const {
    const int keys = min(kBlock, window * latents - block * kBlock);
    if (live < window) {
      const int first = block * kBlock / latents, last = (block * kBlock + keys - 1) / latents;
      const int oldest = slot - live + (slot - live + 1 < 0 ? window : 0) + 1;
      if (live == 0 || !(has(first) || (oldest >= first && oldest <= last))) return 0;
    }
    return (keys + kChunkKeys - 1) / kChunkKeys;
  }
  /// Whether every key of the block is seen.
  __device__ bool whole(int block) const {
    return live == window && (block + 1) * kBlock <= window * latents;
  }
  /// Whether key `key` of the window is seen.
  __device__ bool sees(int key) const { return has(key / latents); }
  /// The same of eight keys in a row, a bit each.
  __device__ unsigned sees_eight(int key) const {
    unsigned bits = 0;
    int s = key / latents, r = key % latents;
#pragma unroll 1
    for (int i = 0; i < 8; ++i) {
      bits |= static_cast<unsigned>(has(s)) << i;
      if (++r == latents) {
        r = 0;
        ++s;
      }
    }
    return bits;
  }
};

template <int kHeadDim>
struct BlockLayout {
  static constexpr int kParts = kHeadDim / 32;              // of 64 bytes of a row
  static constexpr int kTiles = kHeadDim / 8;               // of 8 columns of the output
  static constexpr int kChunk = 2 * kChunkKeys * kHeadDim;  // elements
  static constexpr int kElements = kBlock / kChunkKeys * kChunk;
  static __device__ int k(int key, int d) {
    return key / kChunkKeys * kChunk + (d / 32 * kChunkKeys + key % kChunkKeys) * 32 + d % 32;
  }
  static __device__ int v(int key, int d) {
    const int chunk = key / kChunkKeys;
    return chunk * kChunk + kChunkKeys * kHeadDim + (d ^ (2 * chunk)) * kChunkKeys +
           key % kChunkKeys;
  }
};

/// 16 bytes of a row that one lane holds of each of its parts: dimensions 32 p + 8 t and on.
template <int kHeadDim>
struct RowPart {
  uint4 part[kHeadDim / 32];
};

/// What lane 4 g + t holds of a row that is to be turned: dimensions 8 u and on and the ones that
/// turn with them.
struct RowPairs {
  uint4 low, high;
};
struct Angles {
  float4 cosines[2], sines[2];  // of pairs 8 u and on
};
template <int kHeadDim>
__device__ int pair_unit() {
  return threadIdx.x % 4 % (kHeadDim / 16);
}
template <int kHeadDim>
__device__ RowPairs load_pairs(const Bf16* row) {
  const Bf16* const at = row + pair_unit<kHeadDim>() * 8;
  return {*reinterpret_cast<const uint4*>(at), *reinterpret_cast<const uint4*>(at + kHeadDim / 2)};
}
template <int kHeadDim>
__device__ Angles load_angles(const PagedAttentionArgs& a, int b) {
  const std::int64_t at = std::int64_t{b} * (kHeadDim / 2) + pair_unit<kHeadDim>() * 8;
  const auto* const cosines = reinterpret_cast<const float4*>(a.cosines + at);
  const auto* const sines = reinterpret_cast<const float4*>(a.sines + at);
  return {{cosines[0], cosines[1]}, {sines[0], sines[1]}};
}

/// q and k of two pairs of dimensions, turned.
__device__ inline void turn(std::uint32_t& low, std::uint32_t& high, float c0, float c1, float s0,
                            float s1) {
  const float2 a = unpack_bf16(low), b = unpack_bf16(high);
  low = pack_bf16(fmaf(a.x, c0, -b.x * s0), fmaf(a.y, c1, -b.y * s1));
  high = pack_bf16(fmaf(a.x, s0, b.x * c0), fmaf(a.y, s1, b.y * c1));
}
/// The lane's part of the turned row.
template <int kHeadDim>
__device__ RowPart<kHeadDim> turned(RowPairs x, const Angles& by) {
  const float4(&c)[2] = by.cosines, (&s)[2] = by.sines;
  turn(x.low.x, x.high.x, c[0].x, c[0].y, s[0].x, s[0].y);
  turn(x.low.y, x.high.y, c[0].z, c[0].w, s[0].z, s[0].w);
  turn(x.low.z, x.high.z, c[1].x, c[1].y, s[1].x, s[1].y);
  turn(x.low.w, x.high.w, c[1].z, c[1].w, s[1].z, s[1].w);
  if constexpr (kHeadDim == 64)
    return {{x.low, x.high}};
  else
    return {{threadIdx.x % 4 < 2 ? x.low : x.high}};
}
template <int kHeadDim>
__device__ RowPart<kHeadDim> load_part(const Bf16* row) {
  RowPart<kHeadDim> x;
#pragma unroll
  for (int p = 0; p < kHeadDim / 32; ++p)
    x.part[p] = *reinterpret_cast<const uint4*>(row + p * 32 + threadIdx.x % 4 * 8);
  return x;
}

/// What of a step goes into a page and what looks at it, of rows g (half 0) and g + 8.
template <int kHeadDim, int kHalves>
struct StepRows {
  RowPart<kHeadDim> q[kHalves], k[kHalves], v[kHalves];
};
/// The same as it comes from the projection.
template <int kHeadDim, int kHalves>
struct StepInputs {
  RowPairs q[kHalves], k[kHalves];
  RowPart<kHeadDim> v[kHalves];
  Angles angles;

  __device__ void load(const PagedAttentionArgs& a, int b, int head) {
    const std::int64_t dim = std::int64_t{a.heads} * kHeadDim;
    const int g = threadIdx.x % kWarp / 4;
    angles = load_angles<kHeadDim>(a, b);
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const int r = g + 8 * half;
      q[half] = k[half] = {};
      v[half] = {};
      if (r >= a.latents) continue;
      const Bf16* const row = reinterpret_cast<const Bf16*>(a.qkv.data) +
                              (std::int64_t{b} * a.latents + r) * a.qkv.stride + head * kHeadDim;
      q[half] = load_pairs<kHeadDim>(row);
      k[half] = load_pairs<kHeadDim>(row + dim);
      v[half] = load_part<kHeadDim>(row + 2 * dim);
    }
  }
  __device__ StepRows<kHeadDim, kHalves> turn_all() const {
    StepRows<kHeadDim, kHalves> rows;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      rows.q[half] = turned<kHeadDim>(q[half], angles);
      rows.k[half] = turned<kHeadDim>(k[half], angles);
      rows.v[half] = v[half];
    }
    return rows;
  }
};

/// Softmax and weighted sum of up to 16 latents over the blocks that a warp has seen. Lane 4 g + t
/// has columns 8 i + 2 t, + 1 of rows g and g + 8 of the sums, and the totals of its own keys.
/// kHalves: 1 for up to 8 latents, 2 for more.
template <int kHeadDim, int kHalves>
struct PartAttention {
  using Layout = BlockLayout<kHeadDim>;
  float sums[Layout::kTiles][4] = {};
  float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

  static constexpr int kPartStride = part_stride(kHeadDim);
  /// Of scores, 1 / sqrt(head_dim), for powers of 2.
  static constexpr float kScale =
      (kHeadDim == 64 ? 0.125f : 0.17677669529663688f) * 1.4426950408889634f;

  /// A block, of which `chunks` chunks are there. Column 2 t + e of score tile j is key 8 t + 2 j +
  /// e, so that a lane's scores are the weights of the eight keys of a chunk, as V's words are.
  __device__ void add(const StepRows<kHeadDim, kHalves>& rows, const Bf16* block, int number,
                      int chunks, const LiveWindow& window) {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
    float s[4][4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int p = 0; p < Layout::kParts; ++p) {
        const uint4 k = *reinterpret_cast<const uint4*>(
            block + Layout::k(g / 2 * kChunkKeys + 2 * j + g % 2, p * 32 + 8 * t));
        mma_64_bytes(s[j], rows.q[0].part[p],
                     kHalves == 2 ? rows.q[kHalves - 1].part[p] : uint4{0, 0, 0, 0}, k);
      }
    // What was never fetched may hold anything, and a weight of 0 does not hide a NaN.
    uint4 v[Layout::kTiles];
#pragma unroll
    for (int i = 0; i < Layout::kTiles; ++i) {
      v[i] = {0, 0, 0, 0};
      if (t < chunks) v[i] = *reinterpret_cast<const uint4*>(block + Layout::v(8 * t, 8 * i + g));
    }
    if (!window.whole(number)) {
      const unsigned bits = window.sees_eight(number * kBlock + 8 * t);
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if ((bits >> (2 * j + e) & 1U) == 0) s[j][e] = s[j][e + 2] = -INFINITY;
    }
#pragma unroll
    for (int half = 0; half < kHalves; ++half) soften(s, half);
    std::uint32_t weights[4][2];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      weights[j][0] = pack_bf16(s[j][0], s[j][1]);
      weights[j][1] = kHalves == 2 ? pack_bf16(s[j][2], s[j][3]) : 0U;
    }
#pragma unroll
    for (int i = 0; i < Layout::kTiles; ++i) {
      mma(sums[i], weights[0][0], weights[0][1], weights[1][0], weights[1][1], v[i].x, v[i].y);
      mma(sums[i], weights[2][0], weights[2][1], weights[3][0], weights[3][1], v[i].z, v[i].w);
    }
  }

  /// Scores of half the rows become weights; what was summed before shrinks to the new top.
  __device__ void soften(float (&s)[4][4], int half) {
    float h = -INFINITY;
#pragma unroll
    for (int j = 0; j < 4; ++j) h = fmaxf(h, fmaxf(s[j][half * 2], s[j][half * 2 + 1]));
    h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 1));
    h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 2));
    h = fmaxf(h, top[half]);
    const float base = h == -INFINITY ? 0.0f : h * kScale;
    const float shrink = exp2_fast(fmaf(top[half], kScale, -base));
    top[half] = h;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& weight = s[j][half * 2 + e];
        weight = exp2_fast(fmaf(weight, kScale, -base));
        sum += weight;
      }
    total[half] = fmaf(total[half], shrink, sum);
#pragma unroll
    for (int i = 0; i < Layout::kTiles; ++i) {
      sums[i][half * 2] *= shrink;
      sums[i][half * 2 + 1] *= shrink;
    }
  }

  /// Leaves the warp's part where merge_parts() looks for it.
  __device__ void store(int latents, float* part_sums, float* part_top, float* part_total) const {
    const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      float sum = total[half];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      const int r = g + half * 8;
      if (r >= latents) continue;
      if (t == 0) {
        part_top[r] = top[half];
        part_total[r] = sum;
      }
#pragma unroll
      for (int i = 0; i < Layout::kTiles; ++i)
        *reinterpret_cast<float2*>(part_sums + r * kPartStride + i * 8 + 2 * t) = {
            sums[i][half * 2], sums[i][half * 2 + 1]};
    }
  }
};

/// Puts K and V of the step's rows that fall into block `number` there, and into the page, whose
/// block `stored` is; both are the same memory where the block is not a copy. By one warp.
template <int kHeadDim, int kHalves>
__device__ void put_rows(const StepRows<kHeadDim, kHalves>& rows, const LiveWindow& window,
                         int number, Bf16* block, Bf16* stored) {
  using Layout = BlockLayout<kHeadDim>;
  const int lane = threadIdx.x % kWarp, g = lane / 4, t = lane % 4;
  const int first = window.slot * window.latents - number * kBlock;
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
    const int r = g + 8 * half, key = first + r;
    if (r >= window.latents || key < 0 || key >= kBlock) continue;
#pragma unroll
    for (int p = 0; p < Layout::kParts; ++p) {
      const int at = Layout::k(key, p * 32 + 8 * t);
      *reinterpret_cast<uint4*>(block + at) = rows.k[half].part[p];
      *reinterpret_cast<uint4*>(stored + at) = rows.k[half].part[p];
      const uint4 v = rows.v[half].part[p];
      const std::uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int e = 0; e < 8; ++e)
        *reinterpret_cast<std::uint16_t*>(block + Layout::v(key, p * 32 + 8 * t + e)) =
            static_cast<std::uint16_t>(words[e / 2] >> (e % 2 * 16));
    }
  }
  __syncwarp();
  if (stored == block) return;
  const int last = min(first + window.latents - 1, kBlock - 1) / kChunkKeys;
  for (int chunk = max(first, 0) / kChunkKeys; chunk <= last; ++chunk)
#pragma unroll
    for (int d = lane; d < kHeadDim; d += kWarp) {
      const int at = chunk * Layout::kChunk + kChunkKeys * (kHeadDim + d);
      *reinterpret_cast<uint4*>(stored + at) = *reinterpret_cast<const uint4*>(block + at);
    }
}
/// Whether block `number` holds rows of the present step.
__device__ inline bool holds_step(const LiveWindow& window, int number) {
  const int first = window.slot * window.latents - number * kBlock;
  return window.live > 0 && first < kBlock && first + window.latents > 0;
}

/// The output of one stream and head: `parts` warps' parts, first to last; 0 where nothing was
/// seen. By `threads` threads.
template <int kHeadDim, int kMostParts>
__device__ void merge_parts(const PagedAttentionArgs& a, int b, int head, int parts,
                            const float* sums, const float* tops, const float* totals, bool seen,
                            int threads) {
  constexpr int kStride = PartAttention<kHeadDim, 1>::kPartStride;
  constexpr float kScale = PartAttention<kHeadDim, 1>::kScale;
  Bf16* const out = reinterpret_cast<Bf16*>(a.out.data) +
                    std::int64_t{b} * a.latents * a.out.stride + head * kHeadDim;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < a.latents * kHeadDim / 2; i += threads) {
    const int r = i / (kHeadDim / 2), d = i % (kHeadDim / 2) * 2;
    float highest = -INFINITY;
#pragma unroll
    for (int w = 0; w < kMostParts; ++w)
      if (w < parts) highest = fmaxf(highest, tops[w * kMostLatents + r]);
    float2 sum = {0, 0};
    float weight = 0;
#pragma unroll
    for (int w = 0; w < kMostParts; ++w) {
      if (w >= parts) break;
      const float share = exp2_fast((tops[w * kMostLatents + r] - highest) * kScale);
      const float2 part =
          *reinterpret_cast<const float2*>(sums + (w * a.latents + r) * kStride + d);
      sum.x = fmaf(part.x, share, sum.x);
      sum.y = fmaf(part.y, share, sum.y);
      weight = fmaf(totals[w * kMostLatents + r], share, weight);
    }
    const float inverse = 1.0f / weight;
    *reinterpret_cast<std::uint32_t*>(out + r * a.out.stride + d) =
        seen ? pack_bf16(sum.x * inverse, sum.y * inverse) : 0U;
  }
}

#endif  // __CUDACC__

}  // namespace cortex::cuda
