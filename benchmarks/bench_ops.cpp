// Every operation of ops.h at the shapes of the presets, against the floor of the measured
// ceilings.
//
//   CORTEX_BENCH_THREADS=2 bench_ops --benchmark_format=json
//
// Names read operation/preset/precision/shape; counters: floor_us, and memory = 1 where reading
// makes the floor.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <set>

#include "bench_ceilings.h"
#include "bench_decode.h"
#include "bench_model.h"
#include "bench_work.h"

namespace cortex {
namespace {

constexpr int kUnits = 128;
constexpr int kStepEvents = 40;
constexpr int kWindowEvents = 512;
constexpr int kPageSteps = 16;
constexpr int kStreamBatch = 16;
constexpr float kEps = 1e-6f;

/// What an operation multiplies, and reads and writes at least once.
struct Work {
  double flops = 0;
  DType dtype = DType::f32;
  double bytes = 0;
};

struct Machine {
  int threads;
  Ceilings ceilings;
};
const Machine& machine() {
  static const Machine measured = [] {
    const char* given = std::getenv("CORTEX_BENCH_THREADS");
    const int threads = given ? std::max(1, std::atoi(given)) : 1;
    return Machine{threads, measure_ceilings({.threads = threads, .isa = {}})};
  }();
  return measured;
}

/// A backend with the packed linears of one model, and memory for operands.
class Bench {
 public:
  Bench(const std::string& preset, DType precision)
      : file_(random_preset(preset, precision, kUnits, 1)),
        ops_(make_bench_ops(machine().threads)) {
    for (const LinearShape& shape : forward_linears(config(), 1))
      if (!weights_.count({shape.in, shape.out}))
        weights_[{shape.in, shape.out}] = ops_->pack_linear(file_.linear(shape.name));
  }

  const ModelConfig& config() const { return file_.config; }
  const ModelFile& file() const { return file_; }
  DType precision() const { return file_.precision(); }
  DType attention() const { return precision() == DType::f32 ? DType::f32 : DType::bf16; }
  Ops& ops() { return *ops_; }
  const LinearWeight& weight(const LinearShape& shape) const {
    return *weights_.at({shape.in, shape.out});
  }

  /// Numbers between -1 and 1 that live as long as this.
  float* numbers(std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>((i * 7919 + 13) % 2048) / 1024.0f - 1.0f;
    return keep(values);
  }
  template <class T>
  T* keep(const std::vector<T>& values) {
    const std::size_t bytes = values.size() * sizeof(T);
    kept_.push_back(ops_->allocate(bytes));
    ops_->upload(kept_.back(), values.data(), bytes);
    return kept_.back().as<T>();
  }
  MatrixView rows(std::int64_t count, std::int64_t cols) {
    return matrix(numbers(count * cols), count, cols);
  }

 private:
  ModelFile file_;
  std::unique_ptr<Ops> ops_;
  std::map<std::pair<std::int64_t, std::int64_t>, std::unique_ptr<LinearWeight>> weights_;
  std::vector<Buffer> kept_;
};
using BenchPtr = std::shared_ptr<Bench>;

void add(const char* operation, const BenchPtr& bench, DType precision, const std::string& shape,
         const Work& work, std::function<void(Ops&)> call) {
  const std::string name = fmt::format("{}/{}/{}/{}", operation, bench->config().preset,
                                       precision_name(precision), shape);
  benchmark::RegisterBenchmark(name.c_str(), [bench, work, call](benchmark::State& state) {
    for (auto _ : state) {
      const ForwardScope scope(bench->ops());
      call(bench->ops());
    }
    const Ceilings& ceilings = machine().ceilings;
    const double arithmetic = work.flops / ceilings.gflops(work.dtype) * 1e-3;
    const double memory = work.bytes / ceilings.read_of(work.bytes).gb_s * 1e-3;
    state.counters["floor_us"] = std::max(arithmetic, memory);
    state.counters["memory"] = memory > arithmetic ? 1 : 0;
  })->UseRealTime();
}

void add_linears(const BenchPtr& b, int batch) {
  std::set<std::tuple<std::int64_t, std::int64_t, std::int64_t>> seen;
  for (const LinearShape& shape : forward_linears(b->config(), batch)) {
    if (shape.name == "head.weight" || !seen.insert({shape.rows, shape.in, shape.out}).second)
      continue;
    // As a block calls them: a norm before what reads the residual, GELU behind the up projection.
    const bool up = shape.out == b->config().hidden();
    const bool residual = shape.in == b->config().hidden() || shape.out == shape.in;
    const NormArgs norm =
        residual ? NormArgs{} : NormArgs{NormArgs::Kind::rms, b->numbers(shape.in), nullptr, kEps};
    const Epilogue epilogue = up ? Epilogue::gelu : Epilogue::store;
    const MatrixView x = b->rows(shape.rows, shape.in);
    const MatrixView y = b->rows(shape.rows, shape.out);
    const double weight_bytes = static_cast<double>(b->file().linear(shape.name).weight.bytes());
    const Work work{2.0 * static_cast<double>(shape.rows * shape.in * shape.out), b->precision(),
                    weight_bytes + 4.0 * static_cast<double>(shape.rows * (shape.in + shape.out))};
    const LinearWeight& weight = b->weight(shape);
    add("norm_linear", b, b->precision(), fmt::format("{}x{}to{}", shape.rows, shape.in, shape.out),
        work, [=, &weight](Ops& ops) { ops.norm_linear(norm, x, weight, nullptr, epilogue, y); });
  }
}

void add_normalize(const BenchPtr& b, int batch) {
  const std::int64_t rows = std::int64_t{batch} * b->config().latents;
  const MatrixView x = b->rows(rows, b->config().dim);
  const MatrixView y = b->rows(rows, b->config().dim);
  const NormArgs norm{NormArgs::Kind::rms, b->numbers(b->config().dim), nullptr, kEps};
  add("normalize", b, DType::f32, fmt::format("{}x{}", rows, x.cols),
      {0, DType::f32, 8.0 * static_cast<double>(rows * x.cols)},
      [=](Ops& ops) { ops.normalize(norm, x, y); });
}

void add_ragged(const char* name, const BenchPtr& b, std::int64_t keys, bool shared_q) {
  const ModelConfig& c = b->config();
  RaggedAttentionArgs a;
  a.items = 1;
  a.heads = c.heads;
  a.head_dim = c.head_dim;
  a.queries = c.latents;
  a.q = b->rows(c.latents, c.dim);
  a.shared_q = shared_q;
  a.k = b->rows(keys, 2 * c.dim);
  a.v = a.k;
  a.k.cols = a.v.cols = c.dim;
  a.v.data += c.dim;
  a.indptr = b->keep<std::int32_t>({0, static_cast<std::int32_t>(keys)});
  a.out = b->rows(c.latents, c.dim);
  const auto products = static_cast<double>(c.latents) * static_cast<double>(keys) * c.dim;
  add(name, b, b->precision(), fmt::format("{}x{}x{}", c.latents, keys, c.dim),
      {4 * products, b->attention(), 8.0 * c.dim * static_cast<double>(c.latents + keys)},
      [=](Ops& ops) { ops.ragged_attention(a); });
}

void add_tokens(const BenchPtr& b) {
  const ModelConfig& c = b->config();
  std::uint64_t state = 1;
  std::vector<std::int32_t> neuron, bin, value;
  for (const Event& e : random_events(state, kWindowEvents, c.max_neurons, 0, c.max_bins)) {
    neuron.push_back(e.unit);
    bin.push_back(static_cast<std::int32_t>(e.bin));
    value.push_back(e.value);
  }
  TokenArgs t;
  t.neuron_table = b->numbers(std::int64_t{c.max_neurons} * c.dim);
  t.time_table = b->numbers(std::int64_t{c.max_bins} * c.dim);
  t.value_table = b->numbers(std::int64_t{c.value_buckets} * c.dim);
  t.dim = c.dim;
  t.value_buckets = c.value_buckets;
  t.events = kWindowEvents;
  t.neuron = b->keep(neuron);
  t.bin = b->keep(bin);
  t.value = b->keep(value);
  TokenProjection p;
  p.eps = kEps;
  p.width = 2 * c.dim;
  p.neuron_table = b->numbers(c.max_neurons * p.width);
  p.time_table = b->numbers(c.max_bins * p.width);
  p.value_table = b->numbers(c.value_buckets * p.width);
  const MatrixView out = b->rows(kWindowEvents, p.width);
  // A neuron's and a bin's row of both tables read, K and V written.
  const double row = 4.0 * (2.0 * (c.dim + 2.0 * c.dim) + 2.0 * c.dim);
  add("project_tokens", b, DType::f32, fmt::format("{}x{}", kWindowEvents, p.width),
      {0, DType::f32, kWindowEvents * row}, [=](Ops& ops) { ops.project_tokens(t, p, out); });
}

void add_pools(const BenchPtr& b) {
  const ModelConfig& c = b->config();
  const std::int64_t columns = std::int64_t{c.outputs()} * c.heads;
  const MatrixView scores = b->rows(c.latents, columns);
  const MatrixView x = b->rows(c.latents, c.dim);
  const MatrixView out = b->rows(columns, c.dim);
  // Weights of softmax in place of scores in the next call: the same work.
  add("softmax_pool", b, DType::f32, fmt::format("{}x{}x{}", c.latents, columns, c.dim),
      {2.0 * static_cast<double>(c.latents * columns * c.dim), DType::f32,
       4.0 * static_cast<double>(c.latents * (columns + c.dim) + columns * c.dim)},
      [=](Ops& ops) { ops.softmax_pool(scores, x, c.latents, out); });
  const MatrixView mean = b->rows(1, c.dim);
  add("mean_rows", b, DType::f32, fmt::format("{}x{}", c.latents, c.dim),
      {0, DType::f32, 4.0 * static_cast<double>(x.rows * x.cols)},
      [=](Ops& ops) { ops.mean_rows(x, c.latents, mean); });
}

StreamTables random_tables(Bench& b) {
  const ModelConfig& c = b.config();
  StreamTables t;
  t.dim = c.dim;
  t.heads = c.heads;
  t.head_dim = c.head_dim;
  t.latents = c.latents;
  t.value_buckets = c.value_buckets;
  t.offsets = c.receptive_steps * c.bins_per_step();
  const std::int64_t scores = std::int64_t{t.offsets} * c.latents * c.heads;
  t.unit_score = b.numbers(kUnits * scores);
  t.value_score = b.numbers(c.value_buckets * scores);
  t.unit_v = b.numbers(std::int64_t{kUnits} * c.dim);
  t.value_v = b.numbers(std::int64_t{c.value_buckets} * c.dim);
  t.rstd = b.keep(std::vector<float>(static_cast<std::size_t>(kUnits * c.value_buckets), 1.0f));
  t.null_score = b.numbers(std::int64_t{c.latents} * c.heads);
  t.null_v = b.numbers(c.dim);
  t.latent = b.numbers(std::int64_t{c.latents} * c.dim);
  t.additive = b.numbers(std::int64_t{kUnits} * c.latents * c.dim);
  return t;
}

void add_stream_events(const BenchPtr& b, int batch) {
  const ModelConfig& c = b->config();
  const int recent = c.receptive_steps * kStepEvents;
  std::vector<std::int32_t> indptr = {0}, present;
  std::vector<StreamEvent> packed;
  std::uint64_t state = 1;
  for (int i = 0; i < batch; ++i) {
    for (int s = 0; s < c.receptive_steps; ++s) {
      if (s == c.receptive_steps - 1) present.push_back(static_cast<std::int32_t>(packed.size()));
      for (const Event& e : random_events(state, kStepEvents, kUnits, 0, c.bins_per_step()))
        packed.push_back(
            {e.unit, e.value,
             static_cast<std::int32_t>((c.receptive_steps - s) * c.bins_per_step() - 1 - e.bin)});
    }
    indptr.push_back(static_cast<std::int32_t>(packed.size()));
  }
  const StreamEvents events{batch, b->keep(indptr), b->keep(present), b->keep(packed)};
  const StreamTables tables = random_tables(*b);
  const std::int64_t rows = std::int64_t{batch} * c.latents;
  const MatrixView out = b->rows(rows, c.dim);
  const double width = 1.0 * c.latents * c.dim;
  const std::string shape = fmt::format("{}x{}", batch, c.dim);
  add("additive_bag", b, DType::f32, shape,
      {2.0 * batch * kStepEvents * width, DType::f32, 4.0 * batch * (kStepEvents + 1) * width},
      [=](Ops& ops) { ops.additive_bag(tables, events, out); });
  const double scores = 1.0 * c.latents * c.heads;
  add("stream_cross_attention", b, DType::f32, shape,
      {2.0 * batch * (recent + 1) * width, DType::f32,
       4.0 * batch * (recent * (2 * scores + c.dim) + width)},
      [=](Ops& ops) { ops.stream_cross_attention(tables, events, out); });
}

void add_paged(const BenchPtr& b, int batch) {
  const ModelConfig& c = b->config();
  const DType cached = b->ops().cache_dtype(b->precision());
  const int pages = (c.window_steps + kPageSteps - 1) / kPageSteps;
  const std::int64_t page_bytes =
      std::int64_t{2} * kPageSteps * c.latents * c.dim * static_cast<std::int64_t>(size_of(cached));
  std::vector<std::int32_t> indptr = {0}, page, slot, live;
  for (int i = 0; i < batch; ++i) {
    for (int p = 0; p < pages; ++p) page.push_back(static_cast<std::int32_t>(page.size()));
    indptr.push_back(static_cast<std::int32_t>(page.size()));
    slot.push_back(i % c.window_steps);
    live.push_back(c.window_steps);
  }
  // Zeros are valid numbers of every dtype.
  const std::vector<std::byte> zeros(static_cast<std::size_t>(page_bytes) * page.size());
  PagedAttentionArgs a;
  a.steps = batch;
  a.heads = c.heads;
  a.head_dim = c.head_dim;
  a.latents = c.latents;
  a.qkv = b->rows(std::int64_t{batch} * c.latents, 3 * c.dim);
  a.cosines = b->keep(std::vector<float>(static_cast<std::size_t>(batch * c.head_dim / 2), 0.8f));
  a.sines = b->keep(std::vector<float>(static_cast<std::size_t>(batch * c.head_dim / 2), 0.6f));
  a.cache = {b->keep(zeros),  page_bytes,    cached,        kPageSteps,   c.window_steps,
             b->keep(indptr), b->keep(page), b->keep(slot), b->keep(live)};
  a.out = b->rows(std::int64_t{batch} * c.latents, c.dim);
  const double keys = 1.0 * c.window_steps * c.latents;
  add("paged_attention", b, b->precision(), fmt::format("{}x{}x{:g}", batch, c.latents, keys),
      {4.0 * batch * c.latents * keys * c.dim, b->attention(),
       2.0 * batch * keys * c.dim * static_cast<double>(size_of(cached))},
      // q turns once more with every call: as large as before.
      [=](Ops& ops) { ops.paged_attention(a); });
}

void reserve(Bench& b) {
  const ModelConfig& c = b.config();
  const bool stream = c.kind == ModelKind::stream;
  OpsCapacity most;
  most.rows = std::max(kWindowEvents, kStreamBatch * c.latents);
  most.inputs = c.hidden();
  most.queries = stream ? 0 : c.latents;
  most.keys = std::max({kWindowEvents, 5 * kStepEvents + 1,
                        stream ? (c.window_steps + kPageSteps) * c.latents : c.latents});
  most.latents = stream ? c.latents : 0;
  most.head_dim = c.head_dim;
  b.ops().reserve(most);
}

void add_preset(const std::string& preset) {
  for (const DType precision : {DType::f32, DType::bf16, DType::i8}) {
    const auto b = std::make_shared<Bench>(preset, precision);
    reserve(*b);
    const bool stream = b->config().kind == ModelKind::stream;
    for (const int batch : stream ? std::vector{1, kStreamBatch} : std::vector{1}) {
      add_linears(b, batch);
      if (stream) add_paged(b, batch);
      if (precision != DType::f32) continue;
      add_normalize(b, batch);
      if (stream) add_stream_events(b, batch);
    }
    if (stream) continue;
    add_ragged("ragged_attention_cross", b, kWindowEvents, true);
    add_ragged("ragged_attention_self", b, b->config().latents, false);
    if (precision != DType::f32) continue;
    add_tokens(b);
    add_pools(b);
  }
}

}  // namespace
}  // namespace cortex

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  for (const char* preset : {"stream-nano", "stream-xs", "stream-s", "cortex-xs", "cortex-s"})
    cortex::add_preset(preset);
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
