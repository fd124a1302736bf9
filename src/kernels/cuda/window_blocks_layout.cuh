#pragma once

#include "kernels/cuda/window_blocks.h"
#include "kernels/cuda/window_blocks_device.cuh"

/// What the blocks of a cluster of window_blocks() have where, and the order of their weights.
namespace cortex::cuda::windows {

constexpr int kThreads = kWorkers + kGroupThreads;  // one of the last fetches
constexpr int kHeadDim = kWidth;
constexpr int kHiddenTiles = 4;               // of a block of the cluster
constexpr int kSignals = 8;                   // of a cluster and head: one a warp
constexpr int kSignalPitch = 4;               // of 32 bytes
constexpr int kKeyVectors = 2 * kChunk / 16;  // K and V of a cluster's rows and a head
constexpr float kLog2E = 1.4426950408889634f;

struct Job {
  const float* latents;
  const Bf16* seen;
  CUtensorMap cross_out;
  CUtensorMap weights[WindowBlocksPlan::kMostBlocks * WindowBlocksPlan::kLinears];
  int blocks;
  float eps;
  Bf16* z;
  uint4* keys;             // [2, clusters, heads, kKeyVectors]
  std::uint64_t* signals;  // a cluster and head: its blocks done, in all launches
  std::uint64_t* begun;    // blocks of this launch
  std::uint64_t* ended;    // what the signals were when the last launch ended
};

/// Where things lie in shared memory, in bytes, for clusters of `kRanks` blocks.
template <int kRanks>
struct Layout {
  static constexpr int kZ = 0;                             // slices of the residual stream
  static constexpr int kSeen = kZ + kRanks * kChunk;       // slices of the attention's result
  static constexpr int kHidden = kSeen + kRanks * kChunk;  // slices
  static constexpr int kRing = kHidden + kHiddenTiles * kChunk;
  static constexpr int kSquares = kRing + kStages * kStage;  // [kRanks, kRows], of a row's slices
  static constexpr int kFactors = kSquares + kRanks * kRows * 4;       // [kGroups, kRows]
  static constexpr int kWarpSquares = kFactors + kGroups * kRows * 4;  // [kGroups, 4, 16]
  static constexpr int kBarriers = kWarpSquares + 4 * kRows * 4;
  static constexpr int kFull = kBarriers, kEmpty = kFull + 8 * kStages;
  static constexpr int kZHere = kEmpty + 8 * kStages;
  static constexpr int kSeenHere = kZHere + 8 * kRanks;
  static constexpr int kPartsHere = kSeenHere + 8 * kRanks;
  static constexpr int kBytes = kPartsHere + 8;
  static_assert(kBytes <= kSharedLimit);

  // While the room is not needed for what it is named after:
  static constexpr int kParts = kSeen;  // partial sums of down in bf16, by the block they come from
  static constexpr int kPart = kChunk;
  static constexpr int kPartsBytes = (kRanks - 1) * kPart;  // that the others bring
  static constexpr int kQueries = kHidden;
  static constexpr int kTops = kHidden + 2 * kChunk;  // [kRanks, kRows], then totals
  static constexpr int kOut = kHidden;                // a group's part of what the other finishes
  static constexpr int kSums = kZ;                    // of values, in bf16, a warp's of 4 KB
};

#if CORTEX_SM90A

/// What a slice of another block brings: of z, with its rows' sums of squares.
constexpr int kSeenBytes = kChunk;
constexpr int kZBytes = kChunk + kRows * 4;

/// The thread that keeps the ring filled, in the order in which all is multiplied. Its loops stay
/// loops: it has few registers.
template <int kRanks>
__device__ void fetch(const Job& job, std::uint32_t base, int rank) {
  using L = Layout<kRanks>;
  int stage = 0;
  std::uint32_t parity = 1;
  const auto put = [&](const CUtensorMap& map, int column0, int row0, int column1, int row1) {
    const std::uint32_t full = base + L::kFull + 8 * stage;
    const std::uint32_t to = base + L::kRing + stage * kStage;
    barrier_wait(base + L::kEmpty + 8 * stage, parity);
    barrier_expect(full, kStage);
    load_tile(to, &map, full, column0, row0);
    load_tile(to + kTile, &map, full, column1, row1);
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1;
    }
  };
  constexpr int kDim = kRanks * kWidth;
  const auto slice = [&](int i) { return (rank + i) % kRanks * kWidth; };
  const int own = rank * kWidth, hidden = rank * kHiddenTiles * kWidth;
  const auto put_out = [&](const CUtensorMap& map) {
#pragma unroll 1
    for (int i = 0; i < kRanks; i += 2) put(map, slice(i), own, slice(i + 1), own);
  };
  put_out(job.cross_out);
#pragma unroll 1
  for (int block = 0; block < job.blocks; ++block) {
    const CUtensorMap* const maps = job.weights + block * WindowBlocksPlan::kLinears;
#pragma unroll 1
    for (int i = 0; i < kRanks; ++i) put(maps[0], slice(i), 2 * kDim + own, slice(i), kDim + own);
    put_out(maps[0]);
    put_out(maps[1]);
#pragma unroll 1
    for (int tile = 0; tile < kHiddenTiles; tile += kGroups)
#pragma unroll 1
      for (int i = 0; i < kRanks; ++i)
        put(maps[2], slice(i), hidden + tile * kWidth, slice(i), hidden + (tile + 1) * kWidth);
#pragma unroll 1
    for (int tile = 0; tile < kHiddenTiles; tile += 2)
#pragma unroll 1
      for (int i = 0; i < kRanks; i += kGroups)
#pragma unroll 1
        for (int n = tile; n < tile + 2; ++n)
          put(maps[3], hidden + n * kWidth, slice(i), hidden + n * kWidth, slice(i + 1));
  }
}

#endif  // CORTEX_SM90A

}  // namespace cortex::cuda::windows
