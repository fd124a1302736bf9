#include <algorithm>
#include <type_traits>

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/launch.h"

/// The fused spike tokenizer of windows: three rows gathered, summed and scaled.
namespace cortex::cuda {
namespace {

constexpr int kEventWarps = 4;  // events of a block

template <class T>
struct Vector;  // 16 bytes of a row
template <>
struct Vector<float> {
  static constexpr int kSize = 4;
  using Word = float4;
  float v[kSize];
  __device__ static Vector load(const float* p) {
    const float4 x = __ldg(reinterpret_cast<const float4*>(p));
    return {{x.x, x.y, x.z, x.w}};
  }
  __device__ Word word() const { return {v[0], v[1], v[2], v[3]}; }
};
template <>
struct Vector<Bf16> {
  static constexpr int kSize = 8;
  using Word = uint4;
  float v[kSize];
  __device__ static Vector load(const Bf16* p) {
    const uint4 x = __ldg(reinterpret_cast<const uint4*>(p));
    const float2 a = unpack_bf16(x.x), b = unpack_bf16(x.y), c = unpack_bf16(x.z),
                 d = unpack_bf16(x.w);
    return {{a.x, a.y, b.x, b.y, c.x, c.y, d.x, d.y}};
  }
  __device__ Word word() const {
    return {pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
            pack_bf16(v[6], v[7])};
  }
};

/// mean and 1 / deviation (layer) or 1 / rms of the token, by its warp.
__device__ float2 token_statistics(const TokenArgs& t, const TokenProjection& p,
                                   const float* neuron, const float* time, const float* value) {
  const int lane = threadIdx.x % kWarp;
  float sum = 0, square = 0;
  // Sums over 4 columns a lane, where rows are whole vectors.
  if (t.dim % 4 == 0) {
#pragma unroll 4
    for (int d = lane * 4; d < t.dim; d += 4 * kWarp) {
      const auto a = Vector<float>::load(neuron + d), b = Vector<float>::load(time + d),
                 c = Vector<float>::load(value + d);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float x = a.v[i] + b.v[i] + c.v[i];
        sum += x;
        square = fmaf(x, x, square);
      }
    }
  } else {
    for (int d = lane; d < t.dim; d += kWarp) {
      const float x = neuron[d] + time[d] + value[d];
      sum += x;
      square = fmaf(x, x, square);
    }
  }
  const auto n = static_cast<float>(t.dim);
  if (p.norm != NormArgs::Kind::layer) return {0, rsqrtf(warp_sum(square) / n + p.eps)};
  const float mean = warp_sum(sum) / n;
  square = 0;
  for (int d = lane; d < t.dim; d += kWarp) {
    const float x = neuron[d] + time[d] + value[d] - mean;
    square = fmaf(x, x, square);
  }
  return {mean, rsqrtf(warp_sum(square) / n + p.eps)};
}

constexpr int kMostThreads = 1024;
constexpr int kFewestThreads = 128;
constexpr std::int64_t kSliceBlocks = 132;  // persistent: one a multiprocessor
// Rows of more than this in all do not stay in the second cache: there wider slices measure faster,
// below it narrow ones.
constexpr std::int64_t kWideBytes = std::int64_t{64} << 20;

/// A block keeps to one slice of every row, `kLanes` vectors, so that much of its part of the
/// tables stays in the first cache; a warp takes `chunk` events at a time, at most 32.
template <class T, int kLanes>
__global__ void __launch_bounds__(kMostThreads, 1)
    project_slices(const TokenArgs t, const TokenProjection p, const MatrixView out, int slices,
                   int chunk) {
  using V = Vector<T>;
  constexpr int kEvents = kWarp / kLanes;  // that a warp stores at once
  struct Event {
    int neuron, bin, value;
  };
  let_next_begin();
  const int lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  const int column = (blockIdx.x % slices * kLanes + lane % kLanes) * V::kSize;
  const T* const neurons = static_cast<const T*>(p.neuron_table) + column;
  const T* const times = static_cast<const T*>(p.time_table) + column;
  const T* const values = static_cast<const T*>(p.value_table) + column;
  T* const to = reinterpret_cast<T*>(out.data) + column;
  const auto load = [&](std::int64_t e) {
    Event event = {};
    if (lane < chunk && e < t.events)
      event = {__ldcg(t.neuron + e), __ldcg(t.bin + e),
               min(__ldcg(t.value + e), t.value_buckets - 1)};
    return event;
  };
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x / slices) * warps * chunk;
  std::int64_t first =
      (static_cast<std::int64_t>(blockIdx.x / slices) * warps + threadIdx.x / kWarp) * chunk;
  Event event = load(first + lane);
  // Events and tables are no kernel's results; what is stored over may still be read.
  wait_for_previous();
  for (; first < t.events; first += step) {
    const Event next = load(first + step + lane);
    float factor = 1;
    if (p.norm != NormArgs::Kind::none) {
      const float square =
          __ldcg(p.neuron_time + event.neuron * p.bins + event.bin) +
          __ldcg(p.neuron_value + static_cast<std::int64_t>(event.neuron) * t.value_buckets +
                 event.value) +
          __ldcg(p.time_value + static_cast<std::int64_t>(event.bin) * t.value_buckets +
                 event.value);
      factor = rsqrtf(fmaxf(square, 0.0f) + p.eps);
    }
#pragma unroll 4
    for (int i = 0; i < chunk / kEvents; ++i) {
      const int from = i * kEvents + lane / kLanes;
      const std::int64_t n = __shfl_sync(kAllLanes, event.neuron, from);
      const std::int64_t b = __shfl_sync(kAllLanes, event.bin, from);
      const std::int64_t v = __shfl_sync(kAllLanes, event.value, from);
      const float own = __shfl_sync(kAllLanes, factor, from);
      const V x = V::load(neurons + n * p.width), y = V::load(times + b * p.width),
              z = V::load(values + v * p.width);
      V sum;
#pragma unroll
      for (int d = 0; d < V::kSize; ++d) sum.v[d] = (x.v[d] + y.v[d] + z.v[d]) * own;
      // Streaming: where rows go on to DRAM, plain stores measure up to a quarter slower.
      if (first + from < t.events)
        __stcs(reinterpret_cast<typename V::Word*>(to + (first + from) * out.stride), sum.word());
    }
    event = next;
  }
}

/// An event a warp. Table and out rows as one kind of vectors; kWide: `width` fills them.
template <class T, class Y, bool kWide>
__global__ void __launch_bounds__(kEventWarps* kWarp)
    project(const TokenArgs t, const TokenProjection p, const MatrixView out) {
  begin_kernel();
  const std::int64_t e = blockIdx.x * kEventWarps + threadIdx.x / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (e >= t.events) return;
  const std::int64_t n = t.neuron[e], b = t.bin[e], v = min(t.value[e], t.value_buckets - 1);
  float2 s = {0, 1};
  if (p.norm != NormArgs::Kind::none)
    s = token_statistics(t, p, t.neuron_table + n * t.dim, t.time_table + b * t.dim,
                         t.value_table + v * t.dim);
  const T* const neuron = static_cast<const T*>(p.neuron_table) + n * p.width;
  const T* const time = static_cast<const T*>(p.time_table) + b * p.width;
  const T* const value = static_cast<const T*>(p.value_table) + v * p.width;
  Y* const to = reinterpret_cast<Y*>(out.data) + e * out.stride;
  const bool layer = p.norm == NormArgs::Kind::layer;
  const auto finish = [&](float sum, std::int64_t c) {
    if (layer) sum = fmaf(-s.x, p.mean_factor[c], sum);
    sum *= s.y;
    return layer ? sum + p.bias[c] : sum;
  };
  if constexpr (kWide) {
    using V = Vector<T>;
#pragma unroll 4
    for (std::int64_t c = lane * V::kSize; c < p.width; c += kWarp * V::kSize) {
      const V x = V::load(neuron + c), y = V::load(time + c), z = V::load(value + c);
      V sum;
#pragma unroll
      for (int i = 0; i < V::kSize; ++i) sum.v[i] = finish(x.v[i] + y.v[i] + z.v[i], c + i);
      *reinterpret_cast<typename V::Word*>(to + c) = sum.word();
    }
  } else {
    for (std::int64_t c = lane; c < p.width; c += kWarp)
      to[c] = narrow_to<Y>(finish(widen(neuron[c]) + widen(time[c]) + widen(value[c]), c));
  }
}

template <class T, int kLanes>
void launch_slices(const TokenArgs& t, const TokenProjection& p, const MatrixView& out,
                   cudaStream_t stream) {
  const auto slices = static_cast<int>(p.width / (kLanes * Vector<T>::kSize));
  const std::int64_t most = std::max<std::int64_t>(kSliceBlocks / slices, 1);
  // Few events are shared out among all multiprocessors, and then among fewer threads each.
  int chunk = kWarp, threads = kMostThreads;
  while (chunk > kWarp / kLanes && t.events <= most * (threads / kWarp) * (chunk / 2)) chunk /= 2;
  while (threads > kFewestThreads && t.events <= most * (threads / 2 / kWarp) * chunk) threads /= 2;
  const auto groups = std::min<std::int64_t>(blocks_of(t.events, threads / kWarp * chunk), most);
  launch(project_slices<T, kLanes>, dim3(static_cast<unsigned>(groups * slices)), threads, 0,
         stream, t, p, out, slices, chunk);
}

template <class T, class Y>
void launch_project(const TokenArgs& t, const TokenProjection& p, const MatrixView& out,
                    cudaStream_t stream) {
  const dim3 grid(blocks_of(t.events, kEventWarps));
  if constexpr (std::is_same_v<T, Y>) {
    constexpr int kNarrow = 8, kWide = 16;  // lanes of a slice
    const bool known = p.norm == NormArgs::Kind::none ||
                       (p.norm == NormArgs::Kind::rms && p.neuron_time != nullptr);
    if (known && p.width % (kNarrow * Vector<T>::kSize) == 0 &&
        out.stride % Vector<T>::kSize == 0) {
      const std::int64_t bytes = t.events * p.width * static_cast<std::int64_t>(sizeof(T));
      if (bytes > kWideBytes && p.width % (kWide * Vector<T>::kSize) == 0)
        return launch_slices<T, kWide>(t, p, out, stream);
      return launch_slices<T, kNarrow>(t, p, out, stream);
    }
    if (p.width % Vector<T>::kSize == 0 && out.stride % Vector<T>::kSize == 0)
      return launch(project<T, Y, true>, grid, kEventWarps * kWarp, 0, stream, t, p, out);
  }
  launch(project<T, Y, false>, grid, kEventWarps * kWarp, 0, stream, t, p, out);
}

}  // namespace

void project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                    const MatrixView& out, cudaStream_t stream) {
  if (tokens.events == 0) return;
  if (projection.dtype == DType::f32)
    return out.dtype == DType::f32 ? launch_project<float, float>(tokens, projection, out, stream)
                                   : launch_project<float, Bf16>(tokens, projection, out, stream);
  return out.dtype == DType::f32 ? launch_project<Bf16, float>(tokens, projection, out, stream)
                                 : launch_project<Bf16, Bf16>(tokens, projection, out, stream);
}

}  // namespace cortex::cuda
