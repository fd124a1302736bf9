#pragma once

#include "kernels/cuda/gemm_sm90_device.cuh"
#include "kernels/cuda/ragged_attention.cuh"

/// Persistent blocks of four warpgroups that multiply and one that fetches. A block's work is 64,
/// 128 or 256 queries of one head: a warpgroup has 64 of them, and where fewer than four have
/// queries of their own, several share them, take turns with the tiles of keys and merge their sums
/// in the end. The four are not in step: while one is at its softmax, the tensor cores multiply for
/// another.
///
/// K and V come in tiles of 64 keys through tensor maps into a ring. With a tile comes which bins
/// it holds, so that a warpgroup passes over one that its queries do not see; what no query of the
/// block sees is not fetched.
namespace cortex::cuda::attention {

using namespace sm90;

constexpr int kHeadDim = 64;
constexpr int kTileKeys = 64;
constexpr int kTileBytes = kTileKeys * 128;  // of K, of V, of a warpgroup's queries
constexpr int kGroups = 4;                   // warpgroups that multiply
constexpr int kGroupThreads = 128;
constexpr int kThreads = (kGroups + 1) * kGroupThreads;
constexpr int kBatch = 2;         // tiles looked through at once
constexpr int kPitch = 72;        // floats of a row of partial sums, padded off the banks
constexpr int kAlignment = 1024;  // of swizzled tiles
constexpr float kLog2E = 1.4426950408889634f;
// A row's reference is moved only when a score exceeds it by so much, in powers of two: weights of
// up to this power are as exact, and most tiles then need no rescaling.
constexpr float kSlack = 8;

struct Plan {
  CUtensorMap q, k, v;
  RaggedAttentionArgs a;
  int row_blocks;  // of an item
  int works;
};

struct alignas(16) Tile {
  int first;  // key, or kNoTile: the work's keys are through
  int count;
  int low, high;  // bins
};
constexpr int kNoTile = -1;

template <int kRowGroups>
struct Shared {
  static constexpr int kParts = kGroups / kRowGroups;  // warpgroups that share their queries
  static constexpr int kStages = kParts == 2 ? 6 : 8;
  static_assert(kStages % kParts == 0);  // a stage is always the same warpgroups'
  uint4 k[kStages][kTileBytes / 16];
  uint4 v[kStages][kTileBytes / 16];
  uint4 q[2][kRowGroups][kTileBytes / 16];
  /// Partial sums, tops and totals of those that share.
  float partial[kParts > 1 ? kGroups : 1][kParts > 1 ? 64 * kPitch : 4];
  float tops[kGroups][64];
  float totals[kGroups][64];
  Tile tiles[kStages];
  int bins[kStages][kTileKeys];
  int2 bands[kGroups][64];
  std::uint64_t full[kStages];
  std::uint64_t empty[kStages];
  std::uint64_t q_full[2];
  std::uint64_t q_empty[2];
};

struct Work {
  int item, head;
  int query;  // the block's first
};

template <int kRowGroups>
__device__ Work work_of(const Plan& args, int work) {
  const int head = work / args.row_blocks;
  return {head / args.a.heads, head % args.a.heads, work % args.row_blocks * kRowGroups * 64};
}

#if CORTEX_SM90A

template <int kStages>
struct Ring {
  int stage = 0;
  std::uint32_t parity = 0;
  __device__ void advance(int by = 1) {
    stage += by;
    if (stage >= kStages) {
      stage -= kStages;
      parity ^= 1;
    }
  }
};

/// The warp that fetches queries.
template <int kRowGroups>
__device__ void fetch_queries(const Plan& args, Shared<kRowGroups>& shared) {
  const RaggedAttentionArgs& a = args.a;
  Ring<2> ring;
  wait_for_previous();
  for (int w = blockIdx.x; w < args.works; w += gridDim.x) {
    const Work work = work_of<kRowGroups>(args, w);
    const int row = static_cast<int>((a.shared_q ? 0 : work.item * a.queries) + work.query);
    barrier_wait(shared_address(&shared.q_empty[ring.stage]), ring.parity ^ 1);
    if (threadIdx.x % kWarp == 0) {
      const std::uint32_t full = shared_address(&shared.q_full[ring.stage]);
      barrier_expect(full, kRowGroups * kTileBytes);
      for (int r = 0; r < kRowGroups; ++r)
        load_tile(shared_address(shared.q[ring.stage][r]), &args.q, full, work.head * kHeadDim,
                  row + r * 64);
    }
    ring.advance();
  }
}

/// The warp that fetches keys and values.
template <int kRowGroups>
__device__ void fetch_keys(const Plan& args, Shared<kRowGroups>& shared) {
  const RaggedAttentionArgs& a = args.a;
  const int lane = threadIdx.x % kWarp;
  Ring<Shared<kRowGroups>::kStages> ring;
  const auto wait_empty = [&] {
    barrier_wait(shared_address(&shared.empty[ring.stage]), ring.parity ^ 1);
  };
#pragma unroll 1
  for (int w = blockIdx.x; w < args.works; w += gridDim.x) {
    const Work work = work_of<kRowGroups>(args, w);
    const int begin = a.indptr[work.item], end = a.indptr[work.item + 1];
    const int last = min(work.query + kRowGroups * 64, static_cast<int>(a.queries)) - 1;
    const Band edge = band_of(a, work.item, lane == 0 ? work.query : last);
    const int lowest = __shfl_sync(kAllLanes, edge.low, 0);
    const int highest = __shfl_sync(kAllLanes, edge.high, 1);
#pragma unroll 1
    for (int batch = begin; batch < end; batch += kBatch * kTileKeys) {
      // Bins are no kernel's result: they need not wait for the one before.
      if (a.key_bins && (batch - begin) % (kWarp * kWarp) == 0)
        asm volatile(
            "prefetch.global.L1 [%0];" ::"l"(a.key_bins + min(batch + lane * kWarp, end - 1)));
      int bin[kBatch][2];
#pragma unroll
      for (int i = 0; i < kBatch; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int key = batch + i * kTileKeys + half * kWarp + lane;
          // What is no key has a bin that no band holds.
          bin[i][half] = key >= end ? INT32_MAX : a.key_bins ? a.key_bins[key] : 0;
        }
      wait_for_previous();
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        Tile tile = {batch + i * kTileKeys, 0, 0, 0};
        tile.count = min(kTileKeys, end - tile.first);
        if (tile.count <= 0) break;
        if (a.key_bins) {
          const auto there = [](int b) { return b == INT32_MAX ? INT32_MIN : b; };
          tile.low = __reduce_min_sync(kAllLanes, min(bin[i][0], bin[i][1]));
          tile.high = __reduce_max_sync(kAllLanes, max(there(bin[i][0]), there(bin[i][1])));
          if (tile.high < lowest || tile.low > highest) continue;
        }
        wait_empty();
        shared.bins[ring.stage][lane] = bin[i][0];
        shared.bins[ring.stage][kWarp + lane] = bin[i][1];
        __syncwarp();
        if (lane == 0) {
          const std::uint32_t full = shared_address(&shared.full[ring.stage]);
          shared.tiles[ring.stage] = tile;
          barrier_expect(full, 2 * kTileBytes);
          const int column = work.head * kHeadDim;
          load_tile(shared_address(shared.k[ring.stage]), &args.k, full, column, tile.first);
          load_tile(shared_address(shared.v[ring.stage]), &args.v, full, column, tile.first);
        }
        ring.advance();
      }
    }
#pragma unroll 1
    for (int part = 0; part < Shared<kRowGroups>::kParts; ++part) {
      wait_empty();
      if (lane == 0) {
        shared.tiles[ring.stage].first = kNoTile;
        barrier_arrive(shared_address(&shared.full[ring.stage]));
      }
      ring.advance();
    }
  }
  wait_for_previous();
}

/// Scores [64, 64] of a warpgroup in place to weights; the rows' sums so far follow where a row's
/// reference moves.
__device__ __forceinline__ void soften(float (&s)[32], float (&out)[32], float (&top)[2],
                                       float (&total)[2], float scale) {
  float highest[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < 32; ++i) highest[i / 2 % 2] = fmaxf(highest[i / 2 % 2], s[i]);
  const float slack = kSlack / scale;
  if (__any_sync(kAllLanes, highest[0] > top[0] + slack || highest[1] > top[1] + slack)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float h = highest[half];
      h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 1));
      h = fmaxf(h, __shfl_xor_sync(kAllLanes, h, 2));
      h = fmaxf(h, top[half]);
      const float shrink =
          h == -INFINITY ? 1.0f : exp2_fast(__fmul_rn(__fadd_rn(top[half], -h), scale));
      top[half] = h;
      total[half] *= shrink;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        out[4 * j + 2 * half] *= shrink;
        out[4 * j + 2 * half + 1] *= shrink;
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float base = top[half] == -INFINITY ? 0.0f : -top[half] * scale;
    float sum[2] = {0, 0};
#pragma unroll
    for (int j = 0; j < 8; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        float& weight = s[4 * j + 2 * half + e];
        weight = exp2_fast(fmaf(weight, scale, base));
        sum[e] += weight;
      }
    total[half] += sum[0] + sum[1];
  }
}

/// A warpgroup's 64 rows of the result, out of its registers. `staged`: where its queries were.
__device__ __forceinline__ void store_rows(const RaggedAttentionArgs& a, const Work& work,
                                           int query, const float (&out)[32],
                                           const float (&total)[2], uint4* staged) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x % kGroupThreads / kWarp;
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = total[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    inverse[half] = sum > 0 ? 1.0f / sum : 0.0f;
  }
  // Through shared memory, so that a row is written whole; every warp in its own part.
  staged += warp * 16 * 8;
#pragma unroll
  for (int j = 0; j < 8; j += 2) {
    const int row = lane % 16, chunk = (j + lane / 16) ^ (row & 7);
    store_matrices(shared_address(staged + row * 8 + chunk),
                   pack_bf16(out[4 * j] * inverse[0], out[4 * j + 1] * inverse[0]),
                   pack_bf16(out[4 * j + 2] * inverse[1], out[4 * j + 3] * inverse[1]),
                   pack_bf16(out[4 * j + 4] * inverse[0], out[4 * j + 5] * inverse[0]),
                   pack_bf16(out[4 * j + 6] * inverse[1], out[4 * j + 7] * inverse[1]));
  }
  __syncwarp();
  Bf16* const to = reinterpret_cast<Bf16*>(a.out.data) + work.head * kHeadDim;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = i * 4 + lane / 8;
    const int at = query + warp * 16 + row;
    if (at < a.queries)
      *reinterpret_cast<uint4*>(to + (work.item * a.queries + at) * a.out.stride + lane % 8 * 8) =
          staged[row * 8 + (lane % 8 ^ (row & 7))];
  }
}

/// The same of warpgroups that had a share of the keys each, `first` being the first of them.
template <int kRowGroups>
__device__ __forceinline__ void merge_rows(const RaggedAttentionArgs& a, const Work& work,
                                           int query, const float (&out)[32], const float (&top)[2],
                                           const float (&total)[2], Shared<kRowGroups>& shared,
                                           int first, int part, float scale) {
  constexpr int kParts = Shared<kRowGroups>::kParts;
  const int barrier = 1 + kGroups + first;
  const int thread = threadIdx.x % kGroupThreads;
  const int lane = thread % kWarp, warp = thread / kWarp;
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp * 16 + half * 8 + g;
    float sum = total[half];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    if (t == 0) {
      shared.tops[first + part][row] = top[half];
      shared.totals[first + part][row] = sum;
    }
#pragma unroll
    for (int j = 0; j < 8; ++j)
      *reinterpret_cast<float2*>(&shared.partial[first + part][row * kPitch + 8 * j + 2 * t]) = {
          out[4 * j + 2 * half], out[4 * j + 2 * half + 1]};
  }
  named_barrier<kParts * kGroupThreads>(barrier);
  constexpr int kChunks = 8 / kParts;  // of 8 columns, of a row
#pragma unroll
  for (int i = thread; i < 64 * kChunks; i += kGroupThreads) {
    const int row = i / kChunks, column = (part * kChunks + i % kChunks) * 8;
    float highest = -INFINITY;
#pragma unroll
    for (int p = 0; p < kParts; ++p) highest = fmaxf(highest, shared.tops[first + p][row]);
    float sum = 0, sums[8] = {};
#pragma unroll
    for (int p = 0; p < kParts; ++p) {
      const float own = shared.tops[first + p][row];
      const float factor = own == -INFINITY ? 0.0f : exp2_fast(__fmul_rn(own - highest, scale));
      sum = fmaf(factor, shared.totals[first + p][row], sum);
#pragma unroll
      for (int c = 0; c < 8; c += 4) {
        const float4 x =
            *reinterpret_cast<const float4*>(&shared.partial[first + p][row * kPitch + column + c]);
        sums[c] = fmaf(factor, x.x, sums[c]);
        sums[c + 1] = fmaf(factor, x.y, sums[c + 1]);
        sums[c + 2] = fmaf(factor, x.z, sums[c + 2]);
        sums[c + 3] = fmaf(factor, x.w, sums[c + 3]);
      }
    }
    const float inverse = sum > 0 ? 1.0f / sum : 0.0f;
    if (query + row < a.queries) {
      Bf16* const to = reinterpret_cast<Bf16*>(a.out.data) +
                       (work.item * a.queries + query + row) * a.out.stride + work.head * kHeadDim +
                       column;
      *reinterpret_cast<uint4*>(to) = {pack_bf16(sums[0] * inverse, sums[1] * inverse),
                                       pack_bf16(sums[2] * inverse, sums[3] * inverse),
                                       pack_bf16(sums[4] * inverse, sums[5] * inverse),
                                       pack_bf16(sums[6] * inverse, sums[7] * inverse)};
    }
  }
  named_barrier<kParts * kGroupThreads>(barrier);  // nobody reads the sums any more
}

/// A warpgroup that multiplies.
template <int kRowGroups>
__device__ __forceinline__ void attend(const Plan& args, Shared<kRowGroups>& shared) {
  constexpr int kParts = Shared<kRowGroups>::kParts;
  const RaggedAttentionArgs& a = args.a;
  const int group = threadIdx.x / kGroupThreads;
  const int rows = group / kParts, part = group % kParts;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x % kGroupThreads / kWarp;
  const float scale = rsqrtf(static_cast<float>(kHeadDim)) * kLog2E;
  const bool masked = a.key_bins != nullptr;
  int2* const bands = shared.bands[group];
  Ring<Shared<kRowGroups>::kStages> ring;
  Ring<2> q_ring;
  ring.stage = part;
  const auto release = [&](std::uint64_t& empty) {
    __syncwarp();
    if (lane == 0) barrier_arrive(shared_address(&empty));
  };
  for (int w = blockIdx.x; w < args.works; w += gridDim.x) {
    const Work work = work_of<kRowGroups>(args, w);
    const int query = work.query + rows * 64;  // the warpgroup's first
    if (masked) {
      named_barrier<kGroupThreads>(1 + group);  // nobody reads the bands of the work before
      if (threadIdx.x % kGroupThreads < 64) {
        const int row = threadIdx.x % 64;
        const Band band = band_of(a, work.item, min(query + row, static_cast<int>(a.queries) - 1));
        bands[row] = {band.low, band.high};
      }
      named_barrier<kGroupThreads>(1 + group);
    }
    wait_for_previous();
    barrier_wait(shared_address(&shared.q_full[q_ring.stage]), q_ring.parity);
    const std::uint64_t queries = descriptor(shared_address(shared.q[q_ring.stage][rows]));
    float out[32];
#pragma unroll
    for (int i = 0; i < 32; ++i) out[i] = 0;
    float top[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};
    while (true) {
      barrier_wait(shared_address(&shared.full[ring.stage]), ring.parity);
      const Tile tile = shared.tiles[ring.stage];
      if (tile.first == kNoTile) break;
      if (masked && (tile.low > bands[63].y || tile.high < bands[0].x)) {
        release(shared.empty[ring.stage]);
        ring.advance(kParts);
        continue;
      }
      const std::uint64_t keys = descriptor(shared_address(shared.k[ring.stage]));
      float s[32];
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma<GemmType::kBf16, 64>(s, queries + 2 * k, keys + 2 * k, k > 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin(s);
      std::uint32_t p[4][4];
      // Bands of rows in order are in order.
      if (masked && (tile.low > bands[warp * 16 + 15].y || tile.high < bands[warp * 16].x)) {
#pragma unroll
        for (int i = 0; i < 16; ++i) p[i / 4][i % 4] = 0;
      } else {
        const bool all =
            !masked || (tile.low >= bands[warp * 16 + 15].x && tile.high <= bands[warp * 16].y);
        if (!all || tile.count < kTileKeys) {
          const int* const bins = shared.bins[ring.stage] + 2 * (lane % 4);
          int2 band[2] = {{INT32_MIN, INT32_MAX - 1}, {INT32_MIN, INT32_MAX - 1}};
#pragma unroll
          for (int half = 0; half < 2; ++half)
            if (masked) band[half] = bands[warp * 16 + half * 8 + lane / 4];
#pragma unroll
          for (int j = 0; j < 8; ++j) {
            const int2 bin = *reinterpret_cast<const int2*>(bins + 8 * j);
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              if (bin.x < band[half].x || bin.x > band[half].y) s[4 * j + 2 * half] = -INFINITY;
              if (bin.y < band[half].x || bin.y > band[half].y) s[4 * j + 2 * half + 1] = -INFINITY;
            }
          }
        }
        soften(s, out, top, total, scale);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int i = 0; i < 4; ++i) p[k][i] = pack_bf16(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
        }
      }
      if (tile.count < kTileKeys) {
        // The rows behind are another item's, or nobody's: not even times 0 may they count.
        uint4* const values = shared.v[ring.stage];
        for (int i = tile.count * 8 + static_cast<int>(threadIdx.x) % kGroupThreads;
             i < kTileBytes / 16; i += kGroupThreads)
          values[i] = {0, 0, 0, 0};
        proxy_fence();
        named_barrier<kGroupThreads>(1 + group);
      }
      const std::uint64_t values = descriptor(shared_address(shared.v[ring.stage]));
      pin(out);
#pragma unroll
      for (int k = 0; k < 4; ++k) pin(p[k]);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < 4; ++k) wgmma_64<false>(out, p[k], values + 128 * k, 1);
      wgmma_commit();
      wgmma_wait<0>();
      pin(out);
      release(shared.empty[ring.stage]);
      ring.advance(kParts);
    }
    release(shared.empty[ring.stage]);
    ring.advance(kParts);
    if constexpr (kParts == 1)
      store_rows(a, work, query, out, total, shared.q[q_ring.stage][rows]);
    else
      merge_rows(a, work, query, out, top, total, shared, rows * kParts, part, scale);
    proxy_fence();
    release(shared.q_empty[q_ring.stage]);
    q_ring.advance();
  }
  wait_for_previous();
}

#endif  // CORTEX_SM90A

}  // namespace cortex::cuda::attention
