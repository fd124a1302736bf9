#include <algorithm>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// What a stream's forward begins with: the cross-attention over the score tables, the additive bag
/// of the step's own events, and the phases of its end. They read nothing that a kernel of the same
/// forward wrote, nor each other's results: one launch, whose blocks take one of the three roles.
namespace cortex::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarp;
constexpr int kEach = 2;  // events that a thread scores at once
constexpr int kPart = kEach * kThreads;
constexpr int kAhead = 8;  // rows of V that a thread fetches at once
constexpr int kMostLatents = 16;

struct Inputs {
  PhaseArgs phases;
  StreamTables tables;
  StreamEvents events;
  MatrixView sums, attention;
  unsigned cross_blocks = 0, bag_blocks = 0, phase_blocks = 0;
};

/// kVec neighbours of a row: 4, on 16 bytes, or 1.
template <int kVec>
__device__ void load(const float* p, float (&x)[kVec]) {
  if constexpr (kVec == 4) {
    const float4 v = *reinterpret_cast<const float4*>(p);
    x[0] = v.x, x[1] = v.y, x[2] = v.z, x[3] = v.w;
  } else {
    x[0] = *p;
  }
}
__device__ void store(float* p, const float (&x)[4]) {
  *reinterpret_cast<float4*>(p) = {x[0], x[1], x[2], x[3]};
}
__device__ void store(Bf16* p, const float (&x)[4]) {
  *reinterpret_cast<uint2*>(p) = {pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3])};
}
template <class Y>
__device__ void store(Y* p, const float (&x)[1]) {
  *p = narrow_to<Y>(x[0]);
}

template <int kVec>
__device__ void add(float factor, const float (&x)[kVec], float (&sum)[kVec]) {
#pragma unroll
  for (int k = 0; k < kVec; ++k) sum[k] = fmaf(factor, x[k], sum[k]);
}

/// A latent's scores of a head in a row of a table.
template <int kLatents>
__device__ void load_scores(const float* p, int latents, float (&x)[kLatents]) {
  if (kLatents % 4 == 0 && latents == kLatents) {
#pragma unroll
    for (int r = 0; r < kLatents; r += 4) {
      const float4 v = *reinterpret_cast<const float4*>(p + r);
      x[r] = v.x, x[r + 1] = v.y, x[r + 2] = v.z, x[r + 3] = v.w;
    }
    return;
  }
#pragma unroll
  for (int r = 0; r < kLatents; ++r) x[r] = r < latents ? p[r] : 0.0f;
}

template <int kLatents>
__device__ void put_weights(float* p, const float (&x)[kLatents]) {
  if constexpr (kLatents % 4 == 0) {
#pragma unroll
    for (int r = 0; r < kLatents; r += 4)
      *reinterpret_cast<float4*>(p + r) = {x[r], x[r + 1], x[r + 2], x[r + 3]};
  } else {
#pragma unroll
    for (int r = 0; r < kLatents; ++r) p[r] = x[r];
  }
}

/// How the threads of a block share a head's columns, and its shared memory: a part's weights,
/// units and buckets (`places`); in the end what each group of threads has summed, of columns and
/// of buckets.
struct CrossLayout {
  int columns, groups;  // threads side by side, and how often
  bool by_bucket;       // a thread a bucket of values
  int bucket_floats;    // of a group
  __host__ __device__ CrossLayout(const StreamTables& t, int vec, int latents)
      : columns(t.head_dim / vec),
        groups(kThreads / columns),
        by_bucket(t.value_buckets <= columns),
        bucket_floats(by_bucket ? t.value_buckets * latents : 0) {}
  /// Events that all groups fetch at once: a part is filled up to whole ones, by weights of 0.
  __host__ __device__ int rows() const { return kAhead * groups; }
  __host__ __device__ int most_rows() const { return (kPart + rows() - 1) / rows() * rows(); }
  __host__ __device__ int part_floats(int latents) const { return most_rows() * (latents + 2); }
  __host__ __device__ int group_floats(const StreamTables& t, int latents) const {
    return (latents * t.head_dim + bucket_floats + 3) / 4 * 4;
  }
};

/// A block a stream and head; those of one head run at the same time, and what they gather of its
/// tables stays in the multiprocessor's own cache. Events come in parts of a fixed size, each with
/// a softmax of its own that is merged into the whole. A value's share of V depends on its bucket
/// alone: weights are summed up by bucket first.
template <class Y, int kLatents, int kVec>
__device__ void cross(const Inputs& in, int b, int head, float* shared) {
  const StreamTables& t = in.tables;
  const CrossLayout layout(t, kVec, kLatents);
  __shared__ __align__(16) float warp_top[kWarps][kLatents], warp_total[kWarps][kLatents];
  __shared__ float totals[kLatents];
  float* const weights = shared;  // [most_rows][kLatents]
  auto* const places = reinterpret_cast<int2*>(shared + layout.most_rows() * kLatents);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int group = static_cast<int>(threadIdx.x) / layout.columns;
  const int column = static_cast<int>(threadIdx.x) % layout.columns;
  const int at = head * t.head_dim + column * kVec;
  const int begin = in.events.indptr[b], count = in.events.indptr[b + 1] - begin;
  const int row = t.latents * t.heads, query = head * t.latents;
  float top[kLatents], total[kLatents], sums[kLatents][kVec] = {}, buckets[kLatents] = {};
  load_scores(t.null_score + query, t.latents, top);
  float null_v[kVec];
  load(t.null_v + at, null_v);
#pragma unroll
  for (int r = 0; r < kLatents; ++r) {
    total[r] = 1;
#pragma unroll
    for (int k = 0; k < kVec; ++k) sums[r][k] = group == 0 ? null_v[k] : 0.0f;
  }
  for (int first = 0; first < count; first += kPart) {
    const int n = min(kPart, count - first);
    const int rounded = (n + layout.rows() - 1) / layout.rows() * layout.rows();
    float score[kEach][kLatents], rstd[kEach];
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = i * kThreads + static_cast<int>(threadIdx.x);
      rstd[i] = 0;
#pragma unroll
      for (int r = 0; r < kLatents; ++r) score[i][r] = -INFINITY;
      if (j >= n) continue;
      const StreamEvent event = in.events.event[begin + first + j];
      const int bucket = min(event.value, t.value_buckets - 1);
      places[j] = {event.unit, bucket};
      rstd[i] = t.rstd[std::int64_t{event.unit} * t.value_buckets + bucket];
      float of_value[kLatents];
      load_scores(
          t.unit_score + (std::int64_t{event.unit} * t.offsets + event.offset) * row + query,
          t.latents, score[i]);
      load_scores(t.value_score + (std::int64_t{bucket} * t.offsets + event.offset) * row + query,
                  t.latents, of_value);
#pragma unroll
      for (int r = 0; r < kLatents; ++r) score[i][r] = rstd[i] * (score[i][r] + of_value[r]);
    }
#pragma unroll
    for (int r = 0; r < kLatents; ++r) {
      const float highest = warp_max(fmaxf(score[0][r], score[1][r]));
      if (lane == 0) warp_top[warp][r] = highest;
    }
    __syncthreads();
    float before[kLatents];
#pragma unroll
    for (int r = 0; r < kLatents; ++r) before[r] = top[r];
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      float of_warp[kLatents];
      load_scores(warp_top[w], kLatents, of_warp);
#pragma unroll
      for (int r = 0; r < kLatents; ++r) top[r] = fmaxf(top[r], of_warp[r]);
    }
    float sum[kLatents] = {};
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const int j = i * kThreads + static_cast<int>(threadIdx.x);
      if (i * kThreads >= n) continue;
#pragma unroll
      for (int r = 0; r < kLatents; ++r) {
        const float weight = expf(score[i][r] - top[r]);
        sum[r] += weight;
        score[i][r] = weight * rstd[i];
      }
      if (j < n) put_weights(weights + j * kLatents, score[i]);
    }
#pragma unroll
    for (int r = 0; r < kLatents; ++r) {
      sum[r] = warp_sum(sum[r]);
      if (lane == 0) warp_total[warp][r] = sum[r];
    }
    for (int j = n + static_cast<int>(threadIdx.x); j < rounded; j += kThreads) {
      constexpr float kNone[kLatents] = {};
      places[j] = {0, 0};
      put_weights(weights + j * kLatents, kNone);
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < kLatents; ++r) {
      const float shrink = expf(before[r] - top[r]);
      total[r] *= shrink;
      buckets[r] *= shrink;
#pragma unroll
      for (int k = 0; k < kVec; ++k) sums[r][k] *= shrink;
    }
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
      float of_warp[kLatents];
      load_scores(warp_total[w], kLatents, of_warp);
#pragma unroll
      for (int r = 0; r < kLatents; ++r) total[r] += of_warp[r];
    }
    if (group < layout.groups) {
      for (int first_row = group; first_row < rounded; first_row += layout.rows()) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const int j = first_row + i * layout.groups;
          const int2 place = places[j];
          float v[kVec], weight[kLatents];
          load(t.unit_v + std::int64_t{place.x} * t.dim + at, v);
          load_scores(weights + j * kLatents, kLatents, weight);
#pragma unroll
          for (int r = 0; r < kLatents; ++r) {
            if (place.y == column) buckets[r] += weight[r];
            add(weight[r], v, sums[r]);
          }
        }
      }
#pragma unroll 1
      for (int j = group; j < n && !layout.by_bucket; j += layout.groups) {
        float v[kVec];
        load(t.value_v + std::int64_t{places[j].y} * t.dim + at, v);
#pragma unroll
        for (int r = 0; r < kLatents; ++r) add(weights[j * kLatents + r], v, sums[r]);
      }
    }
    __syncthreads();
  }

  // The groups' sums, first to last: of buckets, then of columns.
  if (threadIdx.x == 0)
    for (int r = 0; r < kLatents; ++r) totals[r] = total[r];
  const int group_floats = layout.group_floats(t, kLatents), bucket_at = kLatents * t.head_dim;
  if (group < layout.groups) {
    float* const mine = shared + group * group_floats;
#pragma unroll
    for (int r = 0; r < kLatents; ++r) {
      store(mine + r * t.head_dim + column * kVec, sums[r]);
      if (column * kLatents < layout.bucket_floats)
        mine[bucket_at + column * kLatents + r] = buckets[r];
    }
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < layout.bucket_floats; i += kThreads) {
    float sum = 0;
    for (int g = 0; g < layout.groups; ++g) sum += shared[g * group_floats + bucket_at + i];
    shared[bucket_at + i] = sum;
  }
  __syncthreads();
  if (group >= layout.groups) return;
#pragma unroll 1
  for (int r = group; r < t.latents; r += layout.groups) {
    float y[kVec] = {};
    for (int g = 0; g < layout.groups; ++g) {
      float x[kVec];
      load(shared + g * group_floats + r * t.head_dim + column * kVec, x);
#pragma unroll
      for (int k = 0; k < kVec; ++k) y[k] += x[k];
    }
    for (int v = 0; v * kLatents < layout.bucket_floats; ++v) {
      float x[kVec];
      load(t.value_v + std::int64_t{v} * t.dim + at, x);
      add(shared[bucket_at + v * kLatents + r], x, y);
    }
#pragma unroll
    for (int k = 0; k < kVec; ++k) y[k] /= totals[r];
    store(reinterpret_cast<Y*>(in.attention.data) +
              (std::int64_t{b} * t.latents + r) * in.attention.stride + at,
          y);
  }
}

/// A warp a stream and 32 kVec columns of its rows; blocks that run at the same time have the same
/// columns, for the cache's sake.
template <int kVec>
__device__ void bag(const Inputs& in, int b, std::int64_t d) {
  const StreamTables& t = in.tables;
  if (b >= in.events.steps) return;
  const std::int64_t width = std::int64_t{t.latents} * t.dim;
  const int lane = threadIdx.x % kWarp;
  const bool here = d < width;
  float sum[kVec] = {};
  if (here) load(t.latent + d, sum);
  const int end = in.events.indptr[b + 1];
  for (int first = in.events.present[b]; first < end; first += kWarp) {
    const int n = min(kWarp, end - first);
    StreamEvent mine;
    if (lane < n) mine = in.events.event[first + lane];
#pragma unroll 8
    for (int i = 0; i < n; ++i) {
      const auto unit = std::int64_t{__shfl_sync(kAllLanes, mine.unit, i)};
      const auto value = static_cast<float>(__shfl_sync(kAllLanes, mine.value, i));
      float x[kVec] = {};
      if (here) load(t.additive + unit * width + d, x);
      add(value, x, sum);
    }
  }
  if (here) store(in.sums.data + b * width + d, sum);
}

__device__ void phase(const PhaseArgs& a, int i) {
  if (i >= a.steps * a.pairs) return;
  const double period = a.periods_ms[i % a.pairs];
  const double t = static_cast<double>(a.step[i / a.pairs] + 1) * a.step_ms;
  double sine, cosine;
  sincospi(2 * (fmod(t, period) / period), &sine, &cosine);
  a.cosines[i] = static_cast<float>(cosine);
  a.sines[i] = static_cast<float>(sine);
}

template <class Y, int kLatents, int kVec>
__global__ void __launch_bounds__(kThreads) stream_roles(const Inputs in) {
  extern __shared__ __align__(16) float shared[];
  let_next_begin();
  unsigned block = blockIdx.x;
  if (block < in.cross_blocks) {
    const auto steps = static_cast<unsigned>(in.events.steps);
    cross<Y, kLatents, kVec>(in, static_cast<int>(block % steps), static_cast<int>(block / steps),
                             shared);
  } else if ((block -= in.cross_blocks) < in.bag_blocks) {
    const unsigned fours = (static_cast<unsigned>(in.events.steps) + kWarps - 1) / kWarps;
    bag<kVec>(in, static_cast<int>(block % fours * kWarps + threadIdx.x / kWarp),
              (std::int64_t{block / fours} * kWarp + threadIdx.x % kWarp) * kVec);
  } else {
    phase(in.phases, static_cast<int>((block - in.bag_blocks) * kThreads + threadIdx.x));
  }
  wait_for_previous();
}

template <class Y, int kLatents, int kVec>
void launch_roles(const Inputs& in, cudaStream_t stream) {
  auto* const kernel = stream_roles<Y, kLatents, kVec>;
  std::size_t floats = 0;
  if (in.cross_blocks > 0) {
    const CrossLayout layout(in.tables, kVec, kLatents);
    floats = static_cast<std::size_t>(std::max(
        layout.part_floats(kLatents), layout.groups * layout.group_floats(in.tables, kLatents)));
  }
  allow_shared(kernel, floats * sizeof(float));
  launch(kernel, dim3(in.cross_blocks + in.bag_blocks + in.phase_blocks), kThreads,
         floats * sizeof(float), stream, in);
}

template <class Y>
void choose_roles(const Inputs& in, cudaStream_t stream) {
  const StreamTables& t = in.tables;
  if (t.head_dim % 4 != 0) return launch_roles<Y, kMostLatents, 1>(in, stream);
  if (t.latents <= 1) return launch_roles<Y, 1, 4>(in, stream);
  if (t.latents <= 4) return launch_roles<Y, 4, 4>(in, stream);
  if (t.latents <= 8) return launch_roles<Y, 8, 4>(in, stream);
  return launch_roles<Y, kMostLatents, 4>(in, stream);
}

}  // namespace

void stream_inputs(const PhaseArgs& phases, const StreamTables& tables, const StreamEvents& events,
                   const MatrixView& sums, const MatrixView& attention, cudaStream_t stream) {
  Inputs in{phases, tables, events, sums, attention};
  const int vec = tables.head_dim % 4 == 0 ? 4 : 1;
  const auto steps = static_cast<unsigned>(events.steps);
  if (attention.data) {
    if (tables.latents > kMostLatents || tables.head_dim > kThreads * vec)
      check(cudaErrorInvalidValue, "stream_cross_attention: more than 16 latents a step");
    in.cross_blocks = steps * static_cast<unsigned>(tables.heads);
  }
  if (sums.data)
    in.bag_blocks = blocks_of(events.steps, kWarps) *
                    blocks_of(std::int64_t{tables.latents} * tables.dim, kWarp * vec);
  in.phase_blocks = blocks_of(std::int64_t{phases.steps} * phases.pairs, kThreads);
  if (in.cross_blocks + in.bag_blocks + in.phase_blocks == 0) return;
  attention.dtype == DType::f32 ? choose_roles<float>(in, stream) : choose_roles<Bf16>(in, stream);
}

}  // namespace cortex::cuda
