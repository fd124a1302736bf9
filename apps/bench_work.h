#pragma once

#include <string>
#include <vector>

#include "bench_ceilings.h"
#include "model/weights.h"

/// What a forward has to compute and to read, so that a time can be held against the machine.
namespace cortex {

/// Arithmetic of one forward as the plans in model/ run it, a multiply and an add being two.
/// Products with weights and with K and V count; norms, softmax, GELU and sums of table rows do
/// not, and neither does what no input changes and is done at load.
struct ForwardFlops {
  double linear = 0;     ///< at the precision of the linears
  double attention = 0;  ///< the rest: activation times activation, and a window's folded head
  double total() const { return linear + attention; }
};

/// A window, with D = dim, h heads, L latents, E events, H = hidden, O outputs:
///   linear     2LD^2                                 cross out
///              + layers (8LD^2 + 4LDH)               qkv and out, up and down
///   attention  4LED + layers 4L^2 D                  q.k and w.v
///              + 4OhLD + 2OhD                        head: folded keys, pooling, folded values
/// times `windows`, of `events` events each. K and V of the events are gathered from tables.
ForwardFlops window_flops(const ModelConfig& config, int windows, std::int64_t events);

/// A step of one stream with all W steps live, R latents, `events` = E events a step, C receptive
/// steps. Scores of the cross-attention and its K and V are tables, so w.v alone is left of it:
///   linear     2RD^2 + layers (8RD^2 + 4RDH) + 2RDO  cross out, blocks, head
///   attention  2R(CE + 1)D + layers 4R^2 WD + 2RED   cross, blocks, additive path
/// times `streams`.
ForwardFlops stream_flops(const ModelConfig& config, int streams, std::int64_t events);

/// A linear that a forward multiplies by, as the file names it; the rest are used at load.
struct LinearShape {
  std::string name;
  std::int64_t rows = 0;
  std::int64_t in = 0;
  std::int64_t out = 0;
};
/// In the order of the forward, of `batch` windows or streams.
std::vector<LinearShape> forward_linears(const ModelConfig& config, int batch);

/// Bytes that a forward has to read at least once: the linears with their scales, and for each of
/// `streams` streams K and V of every layer and live step. Rows that events gather are left out.
struct ForwardBytes {
  double weights = 0;
  double cache = 0;
  double total() const { return weights + cache; }
};
ForwardBytes forward_bytes(const ModelFile& file, int streams, DType cached);

/// The least time that the measured ceilings leave a forward.
struct Floor {
  double arithmetic_us = 0;  ///< linears at their precision's peak, attention at `attention`'s
  double memory_us = 0;      ///< bytes over the read bandwidth of the level that they come from
  std::string level;
  double us() const { return arithmetic_us > memory_us ? arithmetic_us : memory_us; }
};
/// `evict_bytes`: read between two forwards, so that weights come from further away.
Floor floor_of(const ForwardFlops& flops, const ForwardBytes& bytes, DType precision,
               double evict_bytes, const Ceilings& ceilings);

}  // namespace cortex
