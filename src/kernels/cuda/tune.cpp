#include "kernels/cuda/tune.h"

#include <algorithm>
#include <cmath>
#include <memory>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/gemm_sm90.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/tune_passes.h"

namespace cortex::cuda {
namespace {

constexpr int kCalls = 20;       // of a graph
constexpr int kActivations = 2;  // sets of rows that calls take turns with, as layers do
constexpr int kRoughSamples = 3;
constexpr int kLeastSamples = 5;
constexpr double kWorthMore = 1.25;   // of the fastest of the rough times
constexpr double kSampleUs = 1000;    // long against an event's resolution
constexpr float kAddedFactor = 1e-4;  // sums of thousands of calls stay finite

struct Model {
  int dim, latents;
};
constexpr Model kModels[] = {{256, 128}, {512, 256}, {768, 384}};
constexpr int kWindows[] = {1, 2, 4, 8, 16, 32};

struct Linear {
  const char* name;
  int n, k;  // in dim
  std::vector<GemmEpilogue> epilogues;
};
std::vector<Linear> linears_of(GemmType type) {
  const std::vector<GemmEpilogue> add = {GemmEpilogue::kAdd, GemmEpilogue::kAddNarrow};
  const GemmEpilogue gelu = type == GemmType::kE4m3 ? GemmEpilogue::kGeluE4m3 : GemmEpilogue::kGelu;
  return {{"qkv", 3, 1, {GemmEpilogue::kStore}},
          {"out", 1, 1, add},
          {"up", 4, 1, {gelu}},
          {"down", 1, 4, add}};
}

/// Queues call `i` of a graph.
using Call = std::function<cudaError_t(int)>;

class Stream {
 public:
  Stream() {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
    for (cudaEvent_t& event : events_) check(cudaEventCreate(&event), "cudaEventCreate");
  }
  ~Stream() {
    for (const cudaEvent_t event : events_) (void)cudaEventDestroy(event);
    (void)cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  cudaStream_t get() const { return stream_; }
  void synchronize() const { check(cudaStreamSynchronize(stream_), "cudaStreamSynchronize"); }
  /// Microseconds of a replay.
  double time(cudaGraphExec_t graph, int replays) const {
    check(cudaEventRecord(events_[0], stream_), "cudaEventRecord");
    for (int i = 0; i < replays; ++i) check(cudaGraphLaunch(graph, stream_), "cudaGraphLaunch");
    check(cudaEventRecord(events_[1], stream_), "cudaEventRecord");
    check(cudaEventSynchronize(events_[1]), "cudaEventSynchronize");
    float ms = 0;
    check(cudaEventElapsedTime(&ms, events_[0], events_[1]), "cudaEventElapsedTime");
    return static_cast<double>(ms) * 1e3 / replays;
  }

 private:
  cudaStream_t stream_ = nullptr;
  cudaEvent_t events_[2] = {};
};

/// kCalls calls as a graph; null where the call does not run.
using Graph = std::unique_ptr<CUgraphExec_st, void (*)(cudaGraphExec_t)>;
Graph record(const Stream& stream, const Call& call) {
  Graph none(nullptr, [](cudaGraphExec_t g) { (void)cudaGraphExecDestroy(g); });
  // Outside the graph first: what is loaded or set at a first call may not be recorded.
  if (call(0) != cudaSuccess) {
    (void)cudaGetLastError();
    return none;
  }
  stream.synchronize();
  check(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal),
        "cudaStreamBeginCapture");
  cudaError_t status = cudaSuccess;
  for (int i = 0; i < kCalls && status == cudaSuccess; ++i) status = call(i);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(stream.get(), &graph);
  cudaGraphExec_t exec = nullptr;
  if (status == cudaSuccess) status = ended;
  if (status == cudaSuccess) status = cudaGraphInstantiate(&exec, graph, 0);
  if (graph) (void)cudaGraphDestroy(graph);
  if (status != cudaSuccess) {
    (void)cudaGetLastError();
    return none;
  }
  none.reset(exec);
  return none;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

struct Fastest {
  std::size_t index = 0;
  double us = 0;  ///< a call
};

/// None where no call runs. The slow are dropped after a few samples; the rest take turns, so that
/// a drift of the clocks meets all of them.
std::optional<Fastest> fastest(const Stream& stream, const std::vector<Call>& calls,
                               double seconds) {
  struct Runner {
    std::size_t index;
    Graph graph;
    double rough;
    std::vector<double> samples;
  };
  std::vector<Runner> runners;
  double best = INFINITY;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    Graph graph = record(stream, calls[i]);
    if (!graph) continue;
    (void)stream.time(graph.get(), 1);
    double rough = INFINITY;
    for (int s = 0; s < kRoughSamples; ++s) rough = std::min(rough, stream.time(graph.get(), 1));
    best = std::min(best, rough);
    runners.push_back({i, std::move(graph), rough, {}});
  }
  if (runners.empty()) return std::nullopt;
  std::erase_if(runners, [&](const Runner& r) { return r.rough > kWorthMore * best; });
  const int replays = std::max(1, static_cast<int>(std::ceil(kSampleUs / best)));
  const int samples = std::max(
      kLeastSamples, static_cast<int>(seconds * 1e6 / (static_cast<double>(replays) * best)));
  for (int s = 0; s < samples; ++s)
    for (Runner& r : runners) r.samples.push_back(stream.time(r.graph.get(), replays));
  Fastest found{0, INFINITY};
  for (Runner& r : runners) {
    const double us = median(std::move(r.samples)) / kCalls;
    if (us < found.us) found = {r.index, us};
  }
  return found;
}

/// Memory for the largest shape. Every call of a graph has weights of its own, as layers have; rows
/// were written a moment ago, and are in the cache where they fit.
class Bench {
 public:
  Bench() {
    std::int64_t rows_by_widest = 0, weights = 0, rows = 0, widest = 0;
    for (const Model& model : kModels) {
      const std::int64_t m = std::int64_t{model.latents} * kWindows[std::size(kWindows) - 1];
      const std::int64_t wide = std::int64_t{4} * model.dim;
      rows = std::max(rows, m);
      widest = std::max(widest, wide);
      rows_by_widest = std::max(rows_by_widest, m * wide);
      weights = std::max(weights, wide * model.dim);
    }
    a_ = device_memory(static_cast<std::size_t>(kActivations * rows_by_widest * 2));
    w_ = device_memory(static_cast<std::size_t>(kCalls * weights * 2));
    for (int i = 0; i < kActivations; ++i) {
      out_[i] = device_memory(static_cast<std::size_t>(rows_by_widest * 4));
      z_[i] = device_memory(static_cast<std::size_t>(rows_by_widest));
      narrow_[i] = device_memory(static_cast<std::size_t>(rows_by_widest / 2));
      narrow8_[i] = device_memory(static_cast<std::size_t>(rows_by_widest));
      squares_[i] = device_memory(static_cast<std::size_t>(rows_by_widest / 16));
      passed_[i] = device_memory(static_cast<std::size_t>(rows_by_widest * 2));
    }
    row_scale_ = device_memory(static_cast<std::size_t>(rows * 4));
    narrow8_scale_ = device_memory(static_cast<std::size_t>(rows * 4));
    w_scale_ = device_memory(static_cast<std::size_t>(widest * 4));
    known_squares_ = device_memory(static_cast<std::size_t>(rows_by_widest / 16));
    for (const Buffer* b : {&row_scale_, &w_scale_}) {
      fill_random(b->as<float>(), static_cast<std::int64_t>(b->bytes() / 4), stream_.get());
      check(cudaGetLastError(), "fill_random");
    }
    // Any positive numbers: these are 0.747.
    check(cudaMemsetAsync(known_squares_.as<void>(), 0x3f, known_squares_.bytes(), stream_.get()),
          "cudaMemsetAsync");
    stream_.synchronize();
  }

  const Stream& stream() const { return stream_; }

  /// New weights and rows of `type`, and sums of 0.
  void fill(GemmType type) {
    const std::size_t bytes = type == GemmType::kBf16 ? 2 : 1;
    for (const Buffer* b : {&a_, &w_}) {
      fill_random(type, b->as<void>(), static_cast<std::int64_t>(b->bytes() / bytes),
                  stream_.get());
      check(cudaGetLastError(), "fill_random");
    }
    for (int i = 0; i < kActivations; ++i)
      for (const Buffer* b : {&z_[i], &narrow_[i]})
        check(cudaMemsetAsync(b->as<void>(), 0, b->bytes(), stream_.get()), "cudaMemsetAsync");
    stream_.synchronize();
  }

  /// What linears.cpp asks for of a window.
  Call ours(const GemmTableEntry& e, bool after_norm) const {
    GemmSm90Args g;
    g.type = e.type;
    g.m = e.m;
    g.n = e.n;
    g.k = e.k;
    g.lda = e.k;
    g.eps = 1e-6F;
    g.ldo = g.ldz = g.ld_narrow = g.ld_narrow8 = e.n;
    g.config = e.config;
    g.split = e.split;
    g.pdl = true;
    if (e.type != GemmType::kBf16) {
      g.w_scale = w_scale_.f32();
      g.a_scale = row_scale_.f32();
    }
    const bool sums = e.epilogue == GemmEpilogue::kAdd || e.epilogue == GemmEpilogue::kAddNarrow;
    if (sums) g.a_factor = kAddedFactor;
    // Quantised rows are normalised by the time they come.
    if (after_norm && e.type != GemmType::kInt8) {
      g.square = known_squares_.f32();
      g.square_parts = e.k / 64;
    }
    const bool in_8_bits = e.type == GemmType::kE4m3 && (e.epilogue == GemmEpilogue::kAddNarrow ||
                                                         e.epilogue == GemmEpilogue::kGeluE4m3);
    if (in_8_bits && sums) {
      g.square = known_squares_.f32();
      g.square_parts = e.n / 64;
      g.narrow8_row_scale = narrow8_scale_.f32();
    }
    return [this, g, in_8_bits, epilogue = e.epilogue](int i) mutable {
      const int turn = i % kActivations;
      g.a = a(g.type, g.m, g.k, turn);
      g.w = w(g.type, g.n, g.k, i);
      g.out = out_[turn].as<__nv_bfloat16>();
      g.z = z_[turn].f32();
      g.narrow = narrow_[turn].as<__nv_bfloat16>();
      g.square_out = squares_[turn].f32();
      if (in_8_bits) g.narrow8 = narrow8_[turn].as<std::uint8_t>();
      return gemm_sm90(g, epilogue, stream_.get());
    };
  }
  Call product(const GemmTableEntry& e, const CublasLt::Product& run) const {
    return [this, e, &run](int i) {
      const int turn = i % kActivations;
      return run(a(e.type, e.m, e.k, turn), w(e.type, e.n, e.k, i), out_[turn].as<void>(),
                 stream_.get());
    };
  }
  /// What is left to be done beside the bare product: in bf16 a norm is a pass over the product's
  /// rows, which are narrower than its result; all else is one over the result.
  Call pass(const GemmTableEntry& e) const {
    PassArgs p;
    p.m = e.m;
    p.n = e.type == GemmType::kBf16 && e.epilogue == GemmEpilogue::kStore ? e.k : e.n;
    p.whole = e.type == GemmType::kInt8;
    p.row_scale = row_scale_.f32();
    if (e.type != GemmType::kBf16) p.w_scale = w_scale_.f32();
    const bool sums = e.epilogue == GemmEpilogue::kAddNarrow || e.epilogue == GemmEpilogue::kAdd;
    return [this, p, sums, epilogue = e.epilogue](int i) mutable {
      const int turn = i % kActivations;
      p.product = out_[turn].as<void>();
      p.out = (sums ? narrow_ : passed_)[turn].as<__nv_bfloat16>();
      p.z = z_[turn].f32();
      p.square_out = squares_[turn].f32();
      p.narrow8 = narrow8_[turn].as<std::uint8_t>();
      epilogue_pass(epilogue, p, stream_.get());
      return cudaGetLastError();
    };
  }

 private:
  static std::int64_t bytes_of(GemmType type) { return type == GemmType::kBf16 ? 2 : 1; }
  const std::byte* a(GemmType type, int m, int k, int i) const {
    return a_.as<std::byte>() + std::int64_t{i} * m * k * bytes_of(type);
  }
  const std::byte* w(GemmType type, int n, int k, int i) const {
    return w_.as<std::byte>() + std::int64_t{i} * n * k * bytes_of(type);
  }
  Stream stream_;
  Buffer a_, w_, out_[kActivations], z_[kActivations], narrow_[kActivations],
      narrow8_[kActivations], squares_[kActivations], passed_[kActivations];
  Buffer row_scale_, narrow8_scale_, w_scale_, known_squares_;
};

/// cuBLASLt's product and the pass beside it.
void time_peer(const Bench& bench, CublasLt& peer, double seconds, GemmTiming& timing) {
  const GemmTableEntry& e = timing.best;
  const auto ways = peer.products(e.type, e.m, e.n, e.k);
  std::vector<Call> calls;
  for (const auto& way : ways) calls.push_back(bench.product(e, way));
  const auto product = fastest(bench.stream(), calls, seconds);
  if (!product) return;
  timing.product_us = product->us;
  const auto pass = fastest(bench.stream(), {bench.pass(e)}, seconds);
  if (pass) timing.pass_us = pass->us;
}

}  // namespace

GemmTuning tune(int device, const TuneOptions& options) {
  check(cudaSetDevice(device), "cudaSetDevice");
  if (!gemm_sm90_supported(device))
    throw DeviceError("there are no tilings to choose from but on a Hopper GPU (sm_90)");
  CublasLt peer;
  Bench bench;
  GemmTuning tuning;
  tuning.peer = peer.name();
  for (const GemmType type : {GemmType::kBf16, GemmType::kE4m3, GemmType::kInt8}) {
    bench.fill(type);
    for (const Model& model : kModels) {
      if (options.progress)
        options.progress(std::string(name_of(type)) + ", dim " + std::to_string(model.dim));
      for (const Linear& linear : linears_of(type)) {
        for (const int windows : kWindows) {
          for (const GemmEpilogue epilogue : linear.epilogues) {
            GemmTiming timing;
            timing.linear = linear.name;
            timing.dim = model.dim;
            GemmTableEntry& best = timing.best;
            best.type = type;
            best.epilogue = epilogue;
            best.m = model.latents * windows;
            best.n = linear.n * model.dim;
            best.k = linear.k * model.dim;
            const auto tilings = candidates(best);
            const bool after_norm =
                epilogue != GemmEpilogue::kAdd && epilogue != GemmEpilogue::kAddNarrow;
            std::vector<Call> calls;
            for (const auto& tiling : tilings) calls.push_back(bench.ours(tiling, after_norm));
            const auto found = fastest(bench.stream(), calls, options.seconds);
            if (!found)
              throw DeviceError("no tiling runs " + std::string(linear.name) + " of dim " +
                                std::to_string(model.dim) + " at m " + std::to_string(best.m));
            best = tilings[found->index];
            timing.us = found->us;
            time_peer(bench, peer, options.seconds, timing);
            tuning.timings.push_back(std::move(timing));
          }
        }
      }
    }
  }
  return tuning;
}

}  // namespace cortex::cuda
