#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// A stream's events: the additive bag and the cross-attention over the score tables. Both read
/// nothing that a kernel of the same forward wrote, so they run beside the kernels before them.
namespace cortex::cuda {
namespace {

constexpr int kBagThreads = 128;
constexpr int kCrossThreads = 256;
constexpr int kCrossEvents = 128;  // scored at once
constexpr int kMostLatents = 16;

__global__ void __launch_bounds__(kBagThreads)
    bag(const StreamTables t, const StreamEvents events, const MatrixView out) {
  let_next_begin();
  const int b = blockIdx.y;
  const std::int64_t width = std::int64_t{t.latents} * t.dim;
  const std::int64_t d = blockIdx.x * kBagThreads + threadIdx.x;
  if (d < width) {
    float sum = t.latent[d];
    const int end = events.indptr[b + 1];
#pragma unroll 8
    for (int e = events.present[b]; e < end; ++e)
      sum = fmaf(static_cast<float>(events.value[e]), t.additive[events.unit[e] * width + d], sum);
    out.data[b * width + d] = sum;
  }
  wait_for_previous();
}

/// A block a stream and head. Events come in parts of a fixed size, each with a softmax of its own
/// that is merged into the whole.
template <class Y, int kLatents>
__global__ void __launch_bounds__(kCrossThreads)
    cross(const StreamTables t, const StreamEvents events, const MatrixView out) {
  __shared__ float scores[kCrossEvents][kLatents];
  __shared__ float rstd[kCrossEvents];
  __shared__ std::int32_t unit_of[kCrossEvents], value_of[kCrossEvents];
  __shared__ float top[kLatents], total[kLatents], rescale[kLatents];
  extern __shared__ float partial[];  // [groups][kLatents][head_dim]
  let_next_begin();
  const int b = blockIdx.x, head = blockIdx.y;
  const int begin = events.indptr[b], count = events.indptr[b + 1] - begin;
  const int at = head * t.head_dim;
  const int groups = kCrossThreads / t.head_dim;
  const int group = threadIdx.x / t.head_dim, d = threadIdx.x % t.head_dim;
  const std::int64_t row = std::int64_t{t.latents} * t.heads;
  const int query = head * t.latents;
  if (threadIdx.x < t.latents) {
    top[threadIdx.x] = t.null_score[query + threadIdx.x];
    total[threadIdx.x] = 1;
  }
  float sums[kLatents] = {};
  if (group == 0)
    for (int r = 0; r < kLatents; ++r) sums[r] = t.null_v[at + d];
  for (int first = 0; first < count; first += kCrossEvents) {
    const int n = min(kCrossEvents, count - first);
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += kCrossThreads) {
      const int e = begin + first + i;
      unit_of[i] = events.unit[e];
      value_of[i] = min(events.value[e], t.value_buckets - 1);
      rstd[i] = t.rstd[std::int64_t{unit_of[i]} * t.value_buckets + value_of[i]];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n * t.latents; i += kCrossThreads) {
      const int j = i / t.latents, r = i % t.latents;
      const int offset = events.offset[begin + first + j];
      const std::int64_t u = (std::int64_t{unit_of[j]} * t.offsets + offset) * row + query + r;
      const std::int64_t v = (std::int64_t{value_of[j]} * t.offsets + offset) * row + query + r;
      scores[j][r] = rstd[j] * (t.unit_score[u] + t.value_score[v]);
    }
    __syncthreads();
    // A warp a latent.
    for (int r = threadIdx.x / kWarp; r < t.latents; r += kCrossThreads / kWarp) {
      const int lane = threadIdx.x % kWarp;
      float highest = top[r];
      for (int j = lane; j < n; j += kWarp) highest = fmaxf(highest, scores[j][r]);
      highest = warp_max(highest);
      float sum = 0;
      for (int j = lane; j < n; j += kWarp) {
        const float weight = expf(scores[j][r] - highest);
        sum += weight;
        scores[j][r] = weight * rstd[j];
      }
      sum = warp_sum(sum);
      if (lane == 0) {
        rescale[r] = expf(top[r] - highest);
        total[r] = fmaf(total[r], rescale[r], sum);
        top[r] = highest;
      }
    }
    __syncthreads();
    if (group >= groups) continue;
#pragma unroll
    for (int r = 0; r < kLatents; ++r)
      if (r < t.latents) sums[r] *= rescale[r];
#pragma unroll 8
    for (int j = group; j < n; j += groups) {
      const float value = t.unit_v[std::int64_t{unit_of[j]} * t.dim + at + d] +
                          t.value_v[std::int64_t{value_of[j]} * t.dim + at + d];
#pragma unroll
      for (int r = 0; r < kLatents; ++r) sums[r] = fmaf(scores[j][r], value, sums[r]);
    }
  }
  __syncthreads();
  if (group < groups)
    for (int r = 0; r < kLatents; ++r) partial[(group * kLatents + r) * t.head_dim + d] = sums[r];
  __syncthreads();
  for (int i = threadIdx.x; i < t.latents * t.head_dim; i += kCrossThreads) {
    const int r = i / t.head_dim, column = i % t.head_dim;
    float sum = 0;
    for (int g = 0; g < groups; ++g) sum += partial[(g * kLatents + r) * t.head_dim + column];
    reinterpret_cast<Y*>(out.data)[(std::int64_t{b} * t.latents + r) * out.stride + at + column] =
        narrow_to<Y>(sum / total[r]);
  }
  wait_for_previous();
}

template <class Y, int kLatents>
void launch_cross(const StreamTables& t, const StreamEvents& events, const MatrixView& out,
                  cudaStream_t stream) {
  const std::size_t groups = static_cast<std::size_t>(kCrossThreads / t.head_dim);
  launch(cross<Y, kLatents>,
         dim3(static_cast<unsigned>(events.steps), static_cast<unsigned>(t.heads)), kCrossThreads,
         groups * kLatents * static_cast<std::size_t>(t.head_dim) * sizeof(float), stream, t,
         events, out);
}

template <class Y>
void choose_cross(const StreamTables& t, const StreamEvents& events, const MatrixView& out,
                  cudaStream_t stream) {
  if (t.latents > kMostLatents || t.head_dim > kCrossThreads)
    check(cudaErrorInvalidValue, "stream_cross_attention: more than 16 latents a step");
  if (t.latents == 1) return launch_cross<Y, 1>(t, events, out, stream);
  if (t.latents <= 4) return launch_cross<Y, 4>(t, events, out, stream);
  return launch_cross<Y, kMostLatents>(t, events, out, stream);
}

}  // namespace

void additive_bag(const StreamTables& tables, const StreamEvents& events, const MatrixView& out,
                  cudaStream_t stream) {
  if (events.steps == 0) return;
  launch(bag,
         dim3(blocks_of(std::int64_t{tables.latents} * tables.dim, kBagThreads),
              static_cast<unsigned>(events.steps)),
         kBagThreads, 0, stream, tables, events, out);
}

void stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                            const MatrixView& out, cudaStream_t stream) {
  if (events.steps == 0) return;
  if (out.dtype == DType::f32)
    choose_cross<float>(tables, events, out, stream);
  else
    choose_cross<Bf16>(tables, events, out, stream);
}

}  // namespace cortex::cuda
