#pragma once

#include "kernels/cuda/window_blocks_layout.cuh"

/// All blocks of a window model in one kernel, for windows so few that a kernel an operation costs
/// more than the operation.
///
/// A cluster has 32 latents, and every block of it one head: q, k and v of that head, 64 columns of
/// the residual stream, 256 hidden columns. The residual stream stays in registers, in float32.
/// What the others of a cluster need goes straight into their shared memory, a slice of 64 columns
/// each, and a product begins with its own slice while the others come. Down is cut by its inputs,
/// so that the hidden columns never leave their block: the partial sums do, in bf16, and are added
/// in the order of the blocks. Clusters need each other's K and V alone: those go through memory,
/// with a signal a cluster, head and warp. Weights are fetched ahead of all that into a ring.
///
/// Products are of 64 outputs, as rows of A, and the 32 latents: d[output][latent].
namespace cortex::cuda::windows {

#if CORTEX_SM90A

/// One of the threads that multiply.
template <int kRanks>
struct Worker {
  using L = Layout<kRanks>;
  const Job& job;
  unsigned char* const shared;
  const std::uint32_t base;
  const int rank, cluster, clusters;
  const int group = threadIdx.x / kGroupThreads, thread = threadIdx.x % kGroupThreads;
  const int warp = thread / kWarp, lane = thread % kWarp;
  const int g = lane / 4, t = lane % 4;
  std::uint64_t signals_before = 0;
  Weights weights;
  /// The group's half of the rows, of its block's slice: sums 4 i of Sums' i = 2 group, 2 group
  /// + 1.
  float z[2][4];

  __device__ Worker(const Job& a, unsigned char* memory, std::uint32_t address)
      : job(a),
        shared(memory),
        base(address),
        rank(static_cast<int>(blockIdx.x) % kRanks),
        cluster(static_cast<int>(blockIdx.x) / kRanks),
        clusters(static_cast<int>(gridDim.x) / kRanks),
        weights{address + L::kRing, address + L::kFull, address + L::kEmpty} {}

  __device__ int slice(int i) const { return (rank + i) % kRanks; }
  template <class T>
  __device__ T* at(int offset) const {
    return reinterpret_cast<T*>(shared + offset);
  }
  /// All workers, at different places by different barriers: racecheck mixes up the uses of one.
  enum Place { kBegun = 1, kQueries, kSums, kOut, kHidden, kAllHidden, kOwnPart, kOfGroups };
  __device__ static void meet(Place place) { named_barrier<kWorkers>(place); }
  __device__ void meet_group() const { named_barrier<kGroupThreads>(kOfGroups + group); }

  /// Of z in memory: two columns of row 8 i + g of the group's.
  __device__ std::uint32_t* place(int i, int half) const {
    const std::int64_t row = std::int64_t{cluster} * kRows + 16 * group + 8 * i + g;
    return reinterpret_cast<std::uint32_t*>(job.z + row * (kRanks * kWidth) + rank * kWidth +
                                            16 * warp + 8 * half + 2 * t);
  }
  __device__ void load_latents() {
    const int row = (cluster % kRanks * kRows + 16 * group) + 2 * t;
    const float* const from = job.latents + row * (kRanks * kWidth) + rank * kWidth + 16 * warp + g;
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e)
        z[i][e] = __ldg(from + (8 * i + e % 2) * (kRanks * kWidth) + e / 2 * 8);
  }
  /// The block's slice of the cross-attention's result to all blocks of the cluster.
  __device__ void send_cross() const {
    const int row = thread / 8, chunk = thread % 8;
    const std::int64_t from = std::int64_t{cluster} * kRows + 16 * group + row;
    *at<uint4>(own_half(L::kSeen) + row * kSliceBytes + (chunk ^ (row & 7)) * 16) =
        __ldcg(reinterpret_cast<const uint4*>(job.seen + from * (kRanks * kWidth) + rank * kWidth) +
               chunk);
    send(L::kSeen, L::kSeenHere);
  }
  __device__ void store_z() const {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *place(i, half) = transpose(pack(z[i][2 * half], z[i][2 * half + 1]));
  }

  /// Two columns, 16 warp + 8 half + 2 t and the next, of a row of a slice at `to`.
  __device__ void put(int to, int row, int half, std::uint32_t two) const {
    *at<std::uint32_t>(to + row * kSliceBytes + ((2 * warp + half) ^ (row & 7)) * 16 + 4 * t) = two;
  }
  /// Where the group's half of the block's own slice lies.
  __device__ int own_half(int slices) const { return slices + rank * kChunk + group * kHalf; }
  /// It is complete: to the same place in the other blocks of the cluster. They begin with the
  /// slices that come first: their own, the next one's.
  __device__ void send(int slices, int here) const {
    proxy_fence();
    meet_group();
    constexpr int kEach = kRanks / 4;  // of a warp: one stands still while it sends
    const int ahead = 4 * lane + warp;
    const std::uint32_t from = base + own_half(slices), barrier = base + here + 8 * rank;
    if (ahead == 0) barrier_arrive(barrier);
    if (ahead == 0 || lane >= kEach) return;
    const int to = slice(kRanks - ahead);
    copy_to(address_at(from, to), from, kHalf, address_at(barrier, to));
  }
  __device__ void send_z() {
    constexpr int kOwn = kRows / kGroups;
    float* const squares = at<float>(L::kWarpSquares) + group * 4 * kOwn;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float square[2];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        square[e] = fmaf(z[i][e], z[i][e], z[i][2 + e] * z[i][2 + e]);
        for (int step = 4; step < kWarp; step *= 2)
          square[e] += __shfl_xor_sync(kAllLanes, square[e], step);
      }
      if (g == 0)
        *reinterpret_cast<float2*>(squares + warp * kOwn + 8 * i + 2 * t) = {square[0], square[1]};
#pragma unroll
      for (int half = 0; half < 2; ++half)
        put(own_half(L::kZ), 8 * i + g, half, transpose(pack(z[i][2 * half], z[i][2 * half + 1])));
    }
    send(L::kZ, L::kZHere);
    if (warp != 3 || lane >= kOwn) return;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < 4; ++w) sum += squares[w * kOwn + lane];
    const int to = L::kSquares + (rank * kRows + group * kOwn + lane) * 4;
    const std::uint32_t barrier = base + L::kZHere + 8 * rank;
    *at<float>(to) = sum;
    barrier_arrive(barrier);
#pragma unroll
    for (int i = 1; i < kRanks; ++i)
      store_at(address_at(base + to, slice(i)), sum, address_at(barrier, slice(i)));
  }

  __device__ void wait_slice(int here, int number, std::uint32_t parity, int next_bytes,
                             bool arms) const {
    cluster_wait(base + here + 8 * number, parity);
    if (arms && thread == 0 && number != rank) barrier_expect(base + here + 8 * number, next_bytes);
  }

  /// 1 / rms of all rows, whose slices are here; for the group.
  __device__ void leave_factors() const {
    constexpr int kThreadsRow = kGroupThreads / kRows;
    const int row = thread / kThreadsRow, part = thread % kThreadsRow;
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kRanks / kThreadsRow; ++i)
      sum += at<float>(L::kSquares)[(part * (kRanks / kThreadsRow) + i) * kRows + row];
    for (int step = 1; step < kThreadsRow; step *= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (part == 0)
      at<float>(L::kFactors)[group * kRows + row] =
          rsqrtf(fmaf(sum, 1.0f / (kRanks * kWidth), job.eps));
    meet_group();
  }
  __device__ float2 factors(int i) const {
    return *at<float2>(L::kFactors + (group * kRows + 8 * i + 2 * t) * 4);
  }
  __device__ void scale(Sums& d) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float2 factor = factors(i);
      d[4 * i] *= factor.x;
      d[4 * i + 1] *= factor.y;
      d[4 * i + 2] *= factor.x;
      d[4 * i + 3] *= factor.y;
    }
  }

  /// Of a cluster's K, then V, in this block's head.
  __device__ uint4* keys_of(int block, int of) const {
    return job.keys +
           static_cast<std::int64_t>((block % 2 * clusters + of) * kRanks + rank) * kKeyVectors;
  }
  __device__ std::uint64_t* signals_of(int of) const {
    return job.signals + (of * kRanks + rank) * kSignals;
  }
  /// This warp's share of the cluster's K or V is in memory.
  __device__ void signal(int block) const {
    __syncwarp();
    if (lane == 0)
      store_release(signals_of(cluster) + threadIdx.x / kWarp, signals_before + block + 1);
  }

  /// k and v of the cluster's rows to memory and q to shared memory, as the words that mma takes.
  __device__ void project(int block) {
    Sums kv;  // group 0: v, group 1: k
#pragma unroll
    for (int i = 0; i < kRanks; ++i) {
      wait_slice(L::kZHere, slice(i), 0, kZBytes, group == 0);
      weights.multiply(kv, base + L::kZ + slice(i) * kChunk, i == 0);
      weights.hold();
    }
    uint4* const keys = keys_of(block, cluster) + warp * kWarp + lane;
    if (group == 1) {
      weights.finish();
      settle(kv);
      leave_factors();
      scale(kv);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        std::uint32_t word[4];
#pragma unroll
        for (int w = 0; w < 4; ++w)
          word[w] = transpose(pack(kv[8 * pair + 2 * w], kv[8 * pair + 2 * w + 1]));
        keys[pair * kGroupThreads] = {word[0], word[1], word[2], word[3]};
      }
      signal(block);
#pragma unroll
      for (int i = 0; i < kRanks / 2; ++i) weights.skip();
      return;
    }
    Sums q;
#pragma unroll
    for (int i = 0; i < kRanks / 2; ++i) {
      weights.wait();
#pragma unroll
      for (int n = 0; n < 2; ++n)
        weights.multiply(q, n, base + L::kZ + slice(2 * i + n) * kChunk, i + n == 0);
      weights.advance();
      if (i == 0) weights.hold();
    }
    wgmma_commit();
    settle(kv);
    leave_factors();
    scale(kv);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      std::uint32_t word[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) word[i] = pack(kv[4 * i + 2 * half], kv[4 * i + 2 * half + 1]);
      keys[(2 + half) * kGroupThreads] = {word[0], word[1], word[2], word[3]};
    }
    signal(block);
    weights.finish();
    settle(q);
    scale(q);
    const float factor = rsqrtf(static_cast<float>(kHeadDim)) * kLog2E;
    uint4* const queries = at<uint4>(L::kQueries) + warp * 2 * kWarp + lane;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      std::uint32_t word[4];
#pragma unroll
      for (int w = 0; w < 4; ++w)
        word[w] = transpose(pack(q[8 * i + 2 * w] * factor, q[8 * i + 2 * w + 1] * factor));
      queries[i * kWarp] = {word[0], word[2], word[1], word[3]};
    }
  }

  /// The cluster's queries over the rows of a cluster of the item's: a warp's part of the sums.
  __device__ void attend(int block) const {
    const int number = threadIdx.x / kWarp;
    uint4 k[4][2], v[4][2];
    if (number < kRanks) {
      const int of = cluster / kRanks * kRanks + number;
      if (lane < kSignals) wait_signal(signals_of(of) + lane, signals_before + block + 1);
      __syncwarp();
      const uint4* const keys = keys_of(block, of) + lane;
#pragma unroll
      for (int part = 0; part < 4; ++part)
#pragma unroll
        for (int i = 0; i < 2; ++i) k[part][i] = __ldcg(keys + i * kGroupThreads + part * kWarp);
#pragma unroll
      for (int part = 0; part < 4; ++part)
#pragma unroll
        for (int i = 0; i < 2; ++i)
          v[part][i] = __ldcg(keys + (2 + i) * kGroupThreads + part * kWarp);
    }
    meet(kQueries);
    if (number >= kRanks) return;

    float s[2][4][4] = {};
#pragma unroll
    for (int part = 0; part < 4; ++part)
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        const uint4 q = at<uint4>(L::kQueries)[(2 * part + m) * kWarp + lane];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          mma(s[m][2 * i], q.x, q.y, q.z, q.w, k[part][i].x, k[part][i].y);
          mma(s[m][2 * i + 1], q.x, q.y, q.z, q.w, k[part][i].z, k[part][i].w);
        }
      }
    std::uint32_t p[2][4][2];  // of 8 keys: row g, row g + 8
    float* const tops = at<float>(L::kTops) + number * kRows;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float top = s[m][0][2 * half], total = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i)
          top = fmaxf(top, fmaxf(s[m][i][2 * half], s[m][i][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float x = exp2_fast(s[m][i][2 * half] - top);
          const float y = exp2_fast(s[m][i][2 * half + 1] - top);
          total += x + y;
          p[m][i][half] = pack(x, y);
        }
        total += __shfl_xor_sync(kAllLanes, total, 1);
        total += __shfl_xor_sync(kAllLanes, total, 2);
        if (t == 0) {
          tops[16 * m + 8 * half + g] = top;
          tops[kRanks * kRows + 16 * m + 8 * half + g] = total;
        }
      }
    uint4* const sums = at<uint4>(L::kSums + number * kChunk) + lane;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        std::uint32_t word[2][2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float o[4] = {};
          mma(o, p[m][0][0], p[m][0][1], p[m][1][0], p[m][1][1], v[part][half].x, v[part][half].y);
          mma(o, p[m][2][0], p[m][2][1], p[m][3][0], p[m][3][1], v[part][half].z, v[part][half].w);
          word[half][0] = pack(o[0], o[1]);
          word[half][1] = pack(o[2], o[3]);
        }
        sums[(4 * m + part) * kWarp] = {word[0][0], word[0][1], word[1][0], word[1][1]};
      }
  }

  /// The head's result for the group's rows, of all warps' parts, to all blocks of the cluster.
  __device__ void send_seen() const {
    float tops[kRanks][2], top[2] = {-INFINITY, -INFINITY}, total[2] = {}, sum[2][4] = {};
    const float* const from = at<float>(L::kTops) + 16 * group + g;
#pragma unroll
    for (int n = 0; n < kRanks; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        tops[n][half] = from[n * kRows + 8 * half];
        top[half] = fmaxf(top[half], tops[n][half]);
      }
#pragma unroll
    for (int n = 0; n < kRanks; ++n) {
      float factor[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        factor[half] = exp2_fast(tops[n][half] - top[half]);
        total[half] = fmaf(factor[half], from[(kRanks + n) * kRows + 8 * half], total[half]);
      }
      const uint4 x = at<uint4>(L::kSums + n * kChunk)[(4 * group + warp) * kWarp + lane];
      const std::uint32_t word[2][2] = {{x.x, x.y}, {x.z, x.w}};
#pragma unroll
      for (int i = 0; i < 2; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float2 two = unpack_bf16(word[i][half]);
          sum[i][2 * half] = fmaf(factor[half], two.x, sum[i][2 * half]);
          sum[i][2 * half + 1] = fmaf(factor[half], two.y, sum[i][2 * half + 1]);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float inverse = __fdividef(1.0f, total[half]);
#pragma unroll
      for (int i = 0; i < 2; ++i)
        put(own_half(L::kSeen), 8 * half + g, i,
            pack(sum[i][2 * half] * inverse, sum[i][2 * half + 1] * inverse));
    }
    send(L::kSeen, L::kSeenHere);
  }

  /// z += out(what was seen): each group has half of the inputs and finishes half of the rows.
  __device__ void add_seen(int parity) {
    Sums d;
#pragma unroll
    for (int i = 0; i < kRanks / 2; ++i) {
      const int from = slice(2 * i + group);
      wait_slice(L::kSeenHere, from, parity, kSeenBytes, true);
      weights.multiply(d, base + L::kSeen + from * kChunk, i == 0);
      weights.hold();
    }
    weights.finish();
    settle(d);
    float4* const parts = at<float4>(L::kOut) + thread;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float other[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) other[e] = group == 0 ? d[8 + 4 * i + e] : d[4 * i + e];
      parts[(2 * group + i) * kGroupThreads] = {other[0], other[1], other[2], other[3]};
    }
    meet(kOut);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float4 other = parts[(2 * (1 - group) + i) * kGroupThreads];
      const float of[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
      for (int e = 0; e < 4; ++e) z[i][e] += (group == 0 ? d[4 * i + e] : d[8 + 4 * i + e]) + of[e];
    }
  }

  /// GELU of two columns for a row, of the group's tile of hidden columns behind `tile`.
  __device__ void put_gelu(const Sums& d, const float2 (&factor)[4], int tile, int word) const {
    const int i = word / 2, half = word % 2;
    put(L::kHidden + (tile + group) * kChunk, 8 * i + g, half,
        transpose(pack(gelu(d[4 * i + 2 * half] * factor[i].x),
                       gelu(d[4 * i + 2 * half + 1] * factor[i].y))));
  }
  /// A tile of partial sums of down to the block that is `ahead` and adds them. It goes by way of
  /// the slice whose place that block fills when it has them all.
  __device__ void send_part(const Sums& d, int ahead) const {
    const int to = slice(ahead), there = L::kParts + rank * L::kPart;
    const int staged = ahead == 0 ? there : L::kZ + to * kChunk;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      std::uint32_t word[4];
#pragma unroll
      for (int w = 0; w < 4; ++w) word[w] = pack(d[8 * i + 2 * w], d[8 * i + 2 * w + 1]);
      at<uint4>(staged)[i * kGroupThreads + thread] = {word[0], word[1], word[2], word[3]};
    }
    if (ahead == 0) return;
    proxy_fence();
    meet_group();
    if (thread == 0)
      copy_to(address_at(base + there, to), base + staged, L::kPart,
              address_at(base + L::kPartsHere, to));
  }

  /// z += down(gelu(up(normed z))). While the tensor cores are at two of the four tiles of hidden
  /// columns, the others of the two before go through GELU.
  __device__ void add_hidden(int block) {
    constexpr int kPairs = kRanks / 2;  // of stages
    constexpr int kWords = 8 / kPairs;  // of GELU a pair
    Sums up[2], d[kPairs];
    float2 factor[4];
#pragma unroll
    for (int i = 0; i < kRanks; ++i) {
      wait_slice(L::kZHere, slice(i), 1, kZBytes, group == 0);
      weights.multiply(up[0], base + L::kZ + slice(i) * kChunk, i == 0);
      weights.hold();
    }
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
        weights.multiply(up[1], base + L::kZ + slice(2 * i + n) * kChunk, i + n == 0);
      weights.hold();
      if (i == 0) {
        settle(up[0]);
        leave_factors();
#pragma unroll
        for (int n = 0; n < 4; ++n) factor[n] = factors(n);
      }
#pragma unroll
      for (int n = 0; n < kWords; ++n) put_gelu(up[0], factor, 0, i * kWords + n);
    }
    proxy_fence();
    meet(kHidden);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n) weights.multiply(d[i], base + L::kHidden + n * kChunk, n == 0);
      weights.hold();
      if (i == 0) settle(up[1]);
#pragma unroll
      for (int n = 0; n < kWords; ++n) put_gelu(up[1], factor, 2, i * kWords + n);
    }
    proxy_fence();
    meet(kAllHidden);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
#pragma unroll
      for (int n = 0; n < 2; ++n)
        weights.multiply(d[i], base + L::kHidden + (2 + n) * kChunk, false);
      weights.hold();
      if (i == 0) continue;
      settle(d[i - 1]);
      send_part(d[i - 1], 2 * (i - 1) + group);
    }
    weights.finish();
    settle(d[kPairs - 1]);
    send_part(d[kPairs - 1], 2 * (kPairs - 1) + group);

    meet(kOwnPart);
    cluster_wait(base + L::kPartsHere, block % 2);
    if (threadIdx.x == 0) barrier_expect(base + L::kPartsHere, L::kPartsBytes);
    float sum[2][4] = {};
#pragma unroll
    for (int from = 0; from < kRanks; ++from) {
      const uint4 x = at<uint4>(L::kParts + from * L::kPart)[group * kGroupThreads + thread];
      const std::uint32_t word[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const float2 two = unpack_bf16(word[w]);
        sum[w / 2][w % 2 * 2] += two.x;
        sum[w / 2][w % 2 * 2 + 1] += two.y;
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) z[i][e] += sum[i][e];
  }

  __device__ void run() {
    load_latents();
    wait_for_previous();
    signals_before = __ldcg(job.ended);
    send_cross();
    add_seen(0);
    send_z();
    meet(kBegun);
    if (threadIdx.x == 0) count_release(job.begun);
#pragma unroll 1
    for (int block = 0; block < job.blocks; ++block) {
      project(block);
      attend(block);
      meet(kSums);
      send_seen();
      add_seen((block + 1) % 2);
      send_z();
      add_hidden(block);
      if (block + 1 < job.blocks) send_z();
    }
    store_z();
    // The next launch begins where this one ends; by then all blocks know where this one began.
    if (blockIdx.x == 0 && threadIdx.x == 0) {
      wait_signal(job.begun, gridDim.x);
      *job.begun = 0;
      *job.ended = signals_before + job.blocks;
    }
  }
};

#endif  // CORTEX_SM90A

}  // namespace cortex::cuda::windows
