// The CUDA backend's three fused kernels at the shapes that benchmarks/gpu/peers_kernels.py times,
// by the same rules: a call's time within a graph of many, `warm` on the same buffers again and
// again, `cold` over sets of buffers that are together twice the L2. `error` is ||out - ref|| /
// ||ref|| over sampled rows, against float64.
//
//   bench_kernels [--device cuda:0] [--seconds 0.1]     prints one JSON object
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <random>
#include <vector>

#include "core/clock.h"
#include "core/json_writer.h"
#include "kernels/backend.h"
#include "tensor/tensor.h"

namespace cortex {
namespace {

constexpr int kNeurons = 512, kBins = 1024, kValues = 8, kWindowBins = 120, kHead = 64;
constexpr int kCalls = 40;           // of one graph
constexpr int kCheckedRows = 48;     // of an output
constexpr double kL2Bytes = 50e6;    // of an H100
constexpr double kSampleNs = 1.5e6;  // a sample is long against the launch of a graph
constexpr float kEps = 1e-6F;

struct Times {
  double us = 0, p10 = 0, p90 = 0;
  int n = 0;
};

struct Row {
  std::vector<std::pair<std::string, double>> numbers;  // of the shape
  std::string op, dtype, peer;
  double error = 0;
  Times warm;
  std::optional<Times> cold;
};

class Bench {
 public:
  Bench(Ops& ops, double seconds)
      : ops_(ops), seconds_(seconds), token_(ops.allocate_shared(SharedUse::output, 4)) {
    OpsCapacity most;
    most.rows = 8192;
    most.inputs = 2048;
    ops.reserve(most);
  }

  Ops& ops() { return ops_; }
  std::mt19937_64& random() { return random_; }

  std::vector<float> normal(std::int64_t n, double scale = 1) {
    std::normal_distribution<double> draw(0, scale);
    std::vector<float> v(static_cast<std::size_t>(n));
    for (float& x : v) x = static_cast<float>(draw(random_));
    return v;
  }
  std::vector<std::int32_t> below(std::int64_t n, int end) {
    std::vector<std::int32_t> v(static_cast<std::size_t>(n));
    for (auto& x : v) x = std::uniform_int_distribution<int>(0, end - 1)(random_);
    return v;
  }
  template <class T>
  T* put(const std::vector<T>& values) {
    memory_.push_back(ops_.allocate(values.size() * sizeof(T)));
    ops_.upload(memory_.back(), values.data(), values.size() * sizeof(T));
    return memory_.back().template as<T>();
  }
  /// Rounds `values` to what the device holds.
  MatrixView put_matrix(std::vector<float>& values, std::int64_t rows, std::int64_t cols,
                        DType dtype) {
    if (dtype == DType::f32) return matrix(put(values), rows, cols);
    Tensor wide({rows, cols});
    std::copy(values.begin(), values.end(), wide.f32().begin());
    const Tensor narrow = to_bfloat16(wide);
    const Tensor back = to_float(narrow);
    std::copy(back.f32().begin(), back.f32().end(), values.begin());
    memory_.push_back(ops_.allocate(narrow.bytes()));
    ops_.upload(memory_.back(), narrow.data(), narrow.bytes());
    return matrix(memory_.back().f32(), rows, cols, dtype);
  }
  MatrixView output(std::int64_t rows, std::int64_t cols, DType dtype) {
    const auto bytes = static_cast<std::size_t>(rows * cols) * size_of(dtype);
    memory_.push_back(ops_.allocate(bytes));
    const std::vector<std::byte> poison(bytes, std::byte{0xff});  // NaN
    ops_.upload(memory_.back(), poison.data(), bytes);
    return matrix(memory_.back().f32(), rows, cols, dtype);
  }
  std::vector<float> row_of(const MatrixView& m, std::int64_t row) {
    const auto cols = static_cast<std::size_t>(m.cols);
    std::vector<float> values(cols);
    if (m.dtype == DType::f32) {
      ops_.download(values.data(), m.data + row * m.stride, cols * sizeof(float));
      return values;
    }
    std::vector<std::uint16_t> bits(cols);
    const auto* const from = reinterpret_cast<const std::uint16_t*>(m.data) + row * m.stride;
    ops_.download(bits.data(), reinterpret_cast<const float*>(from), cols * 2);
    for (std::size_t i = 0; i < cols; ++i) values[i] = from_bfloat16(bits[i]);
    return values;
  }
  void free_memory() { memory_.clear(); }

  /// `call` issues the operation on set `i` of `sets`; `expected` is a row of set 0's result.
  void add(Row row, int sets, const MatrixView& out, const std::function<void(int)>& call,
           const std::function<std::vector<double>(std::int64_t)>& expected) {
    row.warm = time(1, call);
    double difference = 0, size = 0;
    for (int i = 0; i < kCheckedRows; ++i) {
      const std::int64_t r =
          i == 0 ? out.rows - 1
                 : std::uniform_int_distribution<std::int64_t>(0, out.rows - 1)(random_);
      const auto got = row_of(out, r);
      const auto want = expected(r);
      for (std::size_t c = 0; c < want.size(); ++c) {
        difference += (got[c] - want[c]) * (got[c] - want[c]);
        size += want[c] * want[c];
      }
    }
    row.error = std::sqrt(difference / size);
    if (!(row.error < 1e-2))
      throw std::runtime_error(fmt::format("{} is wrong by {:.2g}", row.op, row.error));
    if (sets > 1) row.cold = time(sets, call);
    rows_.push_back(std::move(row));
  }
  static int sets_of(double bytes) {
    return std::clamp(static_cast<int>(std::ceil(2 * kL2Bytes / bytes)), 1, 64);
  }

  std::string json(const std::string& device) const {
    JsonWriter w;
    w.begin_object().key("device").value(device).key("rows").begin_array();
    const auto put_times = [&](const char* name, const Times& t) {
      w.key(name).begin_object().key("us").value(t.us).key("p10").value(t.p10);
      w.key("p90").value(t.p90).key("n").value(t.n).end_object();
    };
    for (const Row& row : rows_) {
      w.begin_object().key("op").value(row.op).key("dtype").value(row.dtype);
      for (const auto& [name, value] : row.numbers) w.key(name).value(value);
      w.key("peer").value(row.peer).key("error").value(row.error);
      put_times("warm", row.warm);
      if (row.cold) put_times("cold", *row.cold);
      w.end_object();
    }
    w.end_array().end_object();
    return w.text();
  }

 private:
  void issue(const ForwardKey& key, int sets, int calls, const std::function<void(int)>& call) {
    if (!ops_.begin_calls(key)) return;
    for (int i = 0; i < calls; ++i) call(i % sets);
    ops_.end_calls();
  }
  Times time(int sets, const std::function<void(int)>& call) {
    const int calls = (kCalls + sets - 1) / sets * sets;
    const ForwardKey key{this, ++graphs_, sets};
    const ForwardScope scope(ops_);
    const Clock& clock = RealClock::instance();
    const auto run = [&](int replays) {
      const TimeNs start = clock.now();
      for (int i = 0; i < replays; ++i) issue(key, sets, calls, call);
      ops_.expect(token_);
      ops_.receive(token_, 4);
      return static_cast<double>(clock.now() - start);
    };
    (void)run(1);
    const double once = run(4) / 4;
    const int replays = std::max(4, static_cast<int>(std::ceil(kSampleNs / once)));
    std::vector<double> us;
    const TimeNs begin = clock.now();
    while (us.size() < 15 || static_cast<double>(clock.now() - begin) < seconds_ * 1e9)
      us.push_back(run(replays) * 1e-3 / replays / calls);
    std::sort(us.begin(), us.end());
    const auto at = [&](double q) { return us[static_cast<std::size_t>(q * (us.size() - 1))]; };
    return {at(0.5), at(0.1), at(0.9), static_cast<int>(us.size())};
  }

  Ops& ops_;
  double seconds_;
  SharedBuffer token_;
  std::int64_t graphs_ = 0;
  std::mt19937_64 random_{1};
  std::vector<Buffer> memory_;
  std::vector<Row> rows_;
};

const char* name_of(DType dtype) { return dtype == DType::f32 ? "fp32" : "bf16"; }

void tokenizer(Bench& b) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const int dim : {128, 256, 512, 768}) {
      auto neuron = b.normal(std::int64_t{kNeurons} * dim),
           time = b.normal(std::int64_t{kBins} * dim),
           value = b.normal(std::int64_t{kValues} * dim);
      TokenProjection p;
      p.norm = NormArgs::Kind::none;
      p.dtype = dtype;
      p.width = dim;
      p.neuron_table = b.put_matrix(neuron, kNeurons, dim, dtype).data;
      p.time_table = b.put_matrix(time, kBins, dim, dtype).data;
      p.value_table = b.put_matrix(value, kValues, dim, dtype).data;
      for (const int events : {512, 16384, 65536}) {
        const int sets = Bench::sets_of(events * (dim * static_cast<double>(size_of(dtype)) + 12));
        std::vector<TokenArgs> tokens;
        std::vector<MatrixView> outs;
        const auto n = b.below(events, kNeurons), t = b.below(events, kBins),
                   v = b.below(events, kValues + 4);
        for (int s = 0; s < sets; ++s) {
          TokenArgs a;
          a.dim = dim;
          a.value_buckets = kValues;
          a.events = events;
          a.neuron = b.put(n);
          a.bin = b.put(t);
          a.value = b.put(v);
          tokens.push_back(a);
          outs.push_back(b.output(events, dim, dtype));
        }
        Row row;
        row.op = "tokenizer";
        row.dtype = name_of(dtype);
        row.numbers = {{"D", dim}, {"E", events}};
        row.peer = "cortex";
        b.add(
            row, sets, outs[0],
            [&](int s) {
              const auto i = static_cast<std::size_t>(s);
              b.ops().project_tokens(tokens[i], p, outs[i]);
            },
            [&](std::int64_t r) {
              const auto e = static_cast<std::size_t>(r), width = static_cast<std::size_t>(dim);
              const auto last = static_cast<std::size_t>(std::min(v[e], kValues - 1));
              std::vector<double> sum(width);
              for (std::size_t d = 0; d < width; ++d)
                sum[d] = static_cast<double>(neuron[static_cast<std::size_t>(n[e]) * width + d]) +
                         time[static_cast<std::size_t>(t[e]) * width + d] + value[last * width + d];
              return sum;
            });
      }
      b.free_memory();
    }
  }
}

struct AttentionShape {
  int items, heads, queries, events;
};

/// softmax(q k / 8) v of one query and all heads over the keys that `sees` lets through.
std::vector<double> attend(const std::vector<float>& q, std::size_t query,
                           const std::vector<float>& kv, std::size_t first, std::size_t events,
                           std::size_t dim, const std::function<bool(std::size_t)>& sees) {
  std::vector<double> out(dim);
  std::vector<double> weight(events);
  for (std::size_t at = 0; at < dim; at += kHead) {
    double total = 0;
    for (std::size_t e = 0; e < events; ++e) {
      weight[e] = 0;
      if (!sees(e)) continue;
      double score = 0;
      for (std::size_t d = at; d < at + kHead; ++d)
        score += static_cast<double>(q[query * dim + d]) * kv[(first + e) * 2 * dim + d];
      weight[e] = std::exp(score / 8);  // of order 1: no maximum to take away
      total += weight[e];
    }
    for (std::size_t e = 0; e < events; ++e)
      for (std::size_t d = at; total > 0 && d < at + kHead; ++d)
        out[d] += weight[e] / total * kv[(first + e) * 2 * dim + dim + d];
  }
  return out;
}

void attention(Bench& b) {
  for (const AttentionShape& s : {AttentionShape{1, 8, 256, 512}, AttentionShape{8, 8, 256, 512},
                                  AttentionShape{32, 8, 256, 2048}}) {
    const std::int64_t dim = std::int64_t{s.heads} * kHead, keys = std::int64_t{s.items} * s.events;
    const double bytes = 2.0 * static_cast<double>(dim * (2 * keys + s.items * s.queries));
    const int sets = Bench::sets_of(bytes);
    auto q = b.normal(s.queries * dim), kv = b.normal(keys * 2 * dim);
    const MatrixView queries = b.put_matrix(q, s.queries, dim, DType::bf16);
    std::vector<MatrixView> packed, outs;
    for (int i = 0; i < sets; ++i) {
      packed.push_back(b.put_matrix(kv, keys, 2 * dim, DType::bf16));
      outs.push_back(b.output(std::int64_t{s.items} * s.queries, dim, DType::bf16));
    }
    std::vector<std::int32_t> indptr, bins;
    for (int i = 0; i <= s.items; ++i) indptr.push_back(i * s.events);
    for (int i = 0; i < s.items; ++i) {
      auto of_item = b.below(s.events, kWindowBins);
      std::sort(of_item.begin(), of_item.end());
      bins.insert(bins.end(), of_item.begin(), of_item.end());
    }
    const std::int32_t* const indptr_there = b.put(indptr);
    const std::int32_t* const bins_there = b.put(bins);
    const double* const item_bins =
        b.put(std::vector<double>(static_cast<std::size_t>(s.items), kWindowBins));
    for (const double density : {1.0, 0.5, 0.25, 0.0}) {  // 0: dense, no mask
      const double reach = kWindowBins * (1 - std::sqrt(1 - density));
      const auto call = [&](int set) {
        const auto i = static_cast<std::size_t>(set);
        RaggedAttentionArgs a;
        a.items = s.items;
        a.heads = s.heads;
        a.head_dim = kHead;
        a.queries = s.queries;
        a.q = queries;
        a.shared_q = true;
        a.k = packed[i];
        a.v = packed[i].from_column(dim);
        a.indptr = indptr_there;
        a.out = outs[i];
        if (density > 0) {
          a.key_bins = bins_there;
          a.reach_bins = reach;
          a.item_bins = item_bins;
        }
        b.ops().ragged_attention(a);
      };
      Row row;
      row.op = "cross-attention";
      row.dtype = "bf16";
      row.numbers = {{"B", s.items}, {"H", s.heads}, {"L", s.queries}, {"E", s.events}};
      row.numbers.emplace_back("density", density > 0 ? density : 1.0);
      row.peer = density > 0 ? "cortex, band" : "cortex, no mask";
      b.add(row, sets, outs[0], call, [&](std::int64_t r) {
        const std::int64_t item = r / s.queries, i = r % s.queries;
        const auto first = static_cast<std::size_t>(item * s.events);
        const double centre = static_cast<double>(i) * kWindowBins / s.queries;
        return attend(q, static_cast<std::size_t>(i), kv, first, static_cast<std::size_t>(s.events),
                      static_cast<std::size_t>(dim), [&](std::size_t e) {
                        return density == 0 || std::abs(centre - bins[first + e]) <= reach;
                      });
      });
    }
    b.free_memory();
  }
}

struct LinearShape {
  std::int64_t m, n, k;
};

void linear(Bench& b) {
  for (const auto& [m, n, k] :
       {LinearShape{256, 1536, 512}, LinearShape{8192, 1536, 512}, LinearShape{8192, 2048, 512},
        LinearShape{2048, 2048, 512}, LinearShape{4, 1536, 512}, LinearShape{64, 1536, 512}}) {
    const int sets = Bench::sets_of(2.0 * static_cast<double>(m * k + n * k + m * n));
    std::vector<std::unique_ptr<LinearWeight>> weights;
    std::vector<MatrixView> xs, outs;
    auto x = b.normal(m * k), w = b.normal(n * k, 1 / std::sqrt(static_cast<double>(k)));
    Tensor gain({k});
    for (float& g : gain.f32()) g = static_cast<float>(1 + 0.1 * b.normal(1)[0]);
    Tensor wide({n, k});
    std::copy(w.begin(), w.end(), wide.f32().begin());
    const Tensor narrow = to_bfloat16(wide);
    const float* const gain_there = b.put(std::vector<float>(gain.f32().begin(), gain.f32().end()));
    for (int s = 0; s < sets; ++s) {
      weights.push_back(b.ops().pack_linear({narrow, nullptr, &gain, true}));
      xs.push_back(b.put_matrix(x, m, k, DType::bf16));
      outs.push_back(b.output(m, n, DType::bf16));
    }
    Row row;
    row.op = "norm + linear";
    row.dtype = "bf16";
    row.numbers = {{"M", static_cast<double>(m)}, {"N", static_cast<double>(n)}};
    row.numbers.emplace_back("K", static_cast<double>(k));
    row.peer = "cortex";
    const Tensor rounded = to_float(narrow);
    b.add(
        row, sets, outs[0],
        [&](int s) {
          const auto i = static_cast<std::size_t>(s);
          const NormArgs norm{NormArgs::Kind::rms, gain_there, nullptr, kEps};
          b.ops().norm_linear(norm, xs[i], *weights[i], nullptr, Epilogue::store, outs[i]);
        },
        [&](std::int64_t r) {
          double square = 0;
          for (std::int64_t c = 0; c < k; ++c) {
            const double v = x[static_cast<std::size_t>(r * k + c)];
            square += v * v;
          }
          const double rstd = 1 / std::sqrt(square / static_cast<double>(k) + kEps);
          std::vector<double> y(static_cast<std::size_t>(n));
          for (std::int64_t o = 0; o < n; ++o) {
            double sum = 0;
            for (std::int64_t c = 0; c < k; ++c)
              sum += static_cast<double>(x[static_cast<std::size_t>(r * k + c)]) *
                     gain.f32()[static_cast<std::size_t>(c)] *
                     rounded.f32()[static_cast<std::size_t>(o * k + c)];
            y[static_cast<std::size_t>(o)] = sum * rstd;
          }
          return y;
        });
    b.free_memory();
  }
}

int run(int argc, char** argv) {
  std::string device = "cuda:0", only = "tokenizer,attention,linear";
  double seconds = 0.1;
  CLI::App app("Times the CUDA backend's fused kernels");
  app.add_option("--device", device, "cuda:N")->capture_default_str();
  app.add_option("--seconds", seconds, "of samples of one time")->capture_default_str();
  app.add_option("--only", only, "parts, apart by commas")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const Backend backend = make_backend(device, {}).value_or_throw();
  Bench bench(*backend.ops, seconds);
  if (only.find("tokenizer") != std::string::npos) tokenizer(bench);
  if (only.find("attention") != std::string::npos) attention(bench);
  if (only.find("linear") != std::string::npos) linear(bench);
  fmt::print("{}\n", bench.json(backend.name));
  return 0;
}

}  // namespace
}  // namespace cortex

int main(int argc, char** argv) {
  try {
    return cortex::run(argc, argv);
  } catch (const std::exception& e) {
    fmt::print(stderr, "bench_kernels: {}\n", e.what());
    return 1;
  }
}
