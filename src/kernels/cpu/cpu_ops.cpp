#include "kernels/cpu/cpu_ops.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <new>
#include <stdexcept>

namespace cortex {
namespace cpu {
namespace {

constexpr std::align_val_t kAlignment{64};
// A tail of a vector may be loaded from beyond the last element.
constexpr std::size_t kSlackBytes = 64;
// Below it, handing work to another core costs more than it saves.
constexpr double kShareFrom = 4e5;
// So few rows are prepared by every thread for itself, which spares them a meeting.
constexpr std::int64_t kRowsForEach = 16;

std::int64_t round_up(std::int64_t n, std::int64_t to) { return (n + to - 1) / to * to; }

/// Copies one output's weights into a panel, `columns` words from one to the next. A word is what a
/// group of inputs takes up; those of `flip` are turned over.
template <class Word>
void put_weights(const std::byte* from, std::int64_t bytes, std::byte* to, int columns, Word flip) {
  constexpr auto kWord = static_cast<std::int64_t>(sizeof(Word));
  const auto put = [&](std::int64_t at, std::size_t count) {
    Word word = 0;
    std::memcpy(&word, from + at, count);
    word = static_cast<Word>(word ^ flip);
    std::memcpy(to + at * columns, &word, sizeof word);
  };
  const std::int64_t whole = bytes / kWord * kWord;
  for (std::int64_t at = 0; at < whole; at += kWord) put(at, sizeof(Word));
  if (whole < bytes) put(whole, static_cast<std::size_t>(bytes - whole));
}

}  // namespace

PackedLinear::PackedLinear(const LinearTensor& linear, const Kernels& kernels)
    : LinearWeight(linear.weight.size(0), linear.weight.size(1)),
      precision_(linear.weight.dtype()) {
  const Format f = kernels.format(precision_);
  few_outputs_ = cpu::few_outputs(out(), f);
  const int columns = few_outputs_ ? 1 : f.columns;
  const std::int64_t inputs = few_outputs_ ? padded_inputs(in()) : round_up(in(), f.group);
  const std::int64_t row_bytes = in() * f.weight_bytes;
  panel_count_ = few_outputs_ ? 1 : (out() + columns - 1) / columns;
  const std::int64_t bytes = round_up(out(), columns) * inputs * f.weight_bytes;
  panels_ =
      Buffer(::operator new(static_cast<std::size_t>(bytes) + kSlackBytes, kAlignment),
             static_cast<std::size_t>(bytes), [](void* p) { ::operator delete(p, kAlignment); });
  // Adding 128 to an int8 is turning over its highest bit.
  const std::uint32_t flip = f.weight_offset == 0 ? 0 : 0x80808080u;
  std::memset(panels_.as<std::byte>(), static_cast<int>(flip & 0xff),
              static_cast<std::size_t>(bytes));
  for (std::int64_t o = 0; o < out(); ++o) {
    const std::byte* const from = linear.weight.data() + o * row_bytes;
    const int word = f.group * f.weight_bytes;
    std::byte* const to = panels_.as<std::byte>() +
                          o / columns * columns * inputs * f.weight_bytes + o % columns * word;
    switch (word) {
      case 4:
        put_weights<std::uint32_t>(from, row_bytes, to, columns, flip);
        break;
      case 2:
        put_weights<std::uint16_t>(from, row_bytes, to, columns, static_cast<std::uint16_t>(flip));
        break;
      default:
        put_weights<std::uint8_t>(from, row_bytes, to, columns, static_cast<std::uint8_t>(flip));
    }
  }
  if (linear.scale) scale_.assign(linear.scale->f32().begin(), linear.scale->f32().end());
  if (precision_ == DType::i8 && scale_.size() != static_cast<std::size_t>(out()))
    throw std::invalid_argument("an int8 linear without a scale for each output");
}

CpuOps::CpuOps(const Kernels& kernels, const CpuOptions& options)
    : kernels_(kernels),
      pool_(options.threads, options.on_helper),
      memory_(static_cast<std::size_t>(pool_.threads())) {
  reserve({});
}

template <class F>
void CpuOps::share(int chunks, double flops, F&& work) {
  if (flops < kShareFrom) {
    for (int i = 0; i < chunks; ++i) work(i, 0);
    return;
  }
  shared_ = true;
  pool_.begin();
  pool_.run(chunks, work);
  if (!in_forward_) pool_.end();
}

void CpuOps::begin_forward() {
  in_forward_ = true;
  // Forwards are of a kind: helpers that the last one needed wake up while this one begins.
  if (shared_) pool_.begin();
  shared_ = false;
}

void CpuOps::end_forward() {
  in_forward_ = false;
  pool_.end();
}

Buffer CpuOps::allocate(std::size_t bytes) {
  return {::operator new(bytes + kSlackBytes, kAlignment), bytes,
          [](void* p) { ::operator delete(p, kAlignment); }};
}

void CpuOps::clear(const Buffer& buffer) { std::memset(buffer.as<void>(), 0, buffer.bytes()); }

void CpuOps::upload(const Buffer& to, const void* host, std::size_t bytes) {
  if (bytes) std::memcpy(to.as<void>(), host, bytes);
}

void CpuOps::download(void* host, const float* from, std::size_t bytes) {
  if (bytes) std::memcpy(host, from, bytes);
}

std::unique_ptr<LinearWeight> CpuOps::pack_linear(const LinearTensor& linear) {
  // Rounding to bf16 buys nothing where it is widened again to be multiplied.
  if (linear.weight.dtype() != DType::f32 && kernels_.bf16_dot) attention_ = DType::bf16;
  return std::make_unique<PackedLinear>(linear, kernels_);
}

DType CpuOps::cache_dtype(DType weights) const {
  return weights == DType::f32 ? DType::f32 : DType::bf16;
}

void CpuOps::RowMemory::grow(std::int64_t rows, std::int64_t bytes) {
  const auto count = static_cast<std::size_t>(rows);
  if (data.size() < static_cast<std::size_t>(bytes)) data.resize(static_cast<std::size_t>(bytes));
  if (scale.size() < count) scale.resize(count);
  if (sum.size() < count) sum.resize(count);
}

Rows CpuOps::RowMemory::view(std::int64_t stride) {
  return {data.data(), stride, scale.data(), sum.data()};
}

std::byte* CpuOps::scratch(int thread, std::size_t bytes) {
  auto& memory = memory_[static_cast<std::size_t>(thread)].scratch;
  if (memory.size() < bytes + kSlackBytes) memory.resize(bytes + kSlackBytes);
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  return memory.data() + (kSlackBytes - address % kSlackBytes) % kSlackBytes;
}

void CpuOps::reserve(const OpsCapacity& c) {
  const std::int64_t stride = padded_inputs(c.inputs) * 4;
  rows_.grow(c.rows, c.rows * stride);
  low_.resize(std::max(low_.size(), static_cast<std::size_t>(c.queries)));
  high_.resize(low_.size());
  const std::size_t bytes =
      std::max({kernels_.gemm_scratch_bytes(), static_cast<std::size_t>(c.inputs) * sizeof(float),
                c.queries ? kernels_.head_attention_scratch_bytes(c.queries, c.head_dim) : 0,
                stream_scratch_bytes(c.keys, c.latents, c.head_dim)});
  for (int t = 0; t < pool_.threads(); ++t) {
    const std::int64_t rows = std::min(c.rows, kRowsForEach);
    memory_[static_cast<std::size_t>(t)].rows.grow(rows, rows * stride);
    scratch(t, bytes);
  }
}

void CpuOps::prepare_rows(const PackedLinear& weight, const NormArgs& norm, MatrixView x,
                          std::int64_t begin, std::int64_t end, const Rows& to) const {
  for (std::int64_t m = begin; m < end; ++m)
    kernels_.prepare(weight.precision(), norm, x.data + m * x.stride, weight.in(), to, m);
}

void CpuOps::norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                         const float* bias, Epilogue epilogue, MatrixView out) {
  const auto& w = static_cast<const PackedLinear&>(weight);
  const std::int64_t stride =
      padded_inputs(w.in()) * kernels_.format(w.precision()).activation_bytes;
  const double flops = 2.0 * static_cast<double>(x.rows) * static_cast<double>(w.out()) *
                       static_cast<double>(w.in());
  const bool each = x.rows <= kRowsForEach;
  ++linear_;
  if (!each) {
    rows_.grow(x.rows, x.rows * stride);
    const Rows to = rows_.view(stride);
    const auto parts = static_cast<int>((x.rows + kRowsForEach - 1) / kRowsForEach);
    share(parts, flops, [&](int part, int) {
      prepare_rows(w, norm, x, part * kRowsForEach,
                   std::min<std::int64_t>(x.rows, (part + 1) * kRowsForEach), to);
    });
  }
  GemmArgs args;
  args.precision = w.precision();
  args.inputs = w.in();
  args.outputs = w.out();
  args.weights = w.panels();
  args.weight_scale = w.scale();
  args.bias = bias;
  args.epilogue = epilogue;
  args.out = out;
  args.few_outputs = w.few_outputs();
  const std::int64_t part_rows = w.few_outputs() ? kRowsForEach : kGemmRows;
  const std::int64_t row_parts = (x.rows + part_rows - 1) / part_rows;
  share(static_cast<int>(w.panel_count() * row_parts), flops, [&](int chunk, int thread) {
    ThreadMemory& memory = memory_[static_cast<std::size_t>(thread)];
    GemmArgs part = args;
    if (each) {
      memory.rows.grow(x.rows, x.rows * stride);
      part.a = memory.rows.view(stride);
      if (memory.prepared != linear_) prepare_rows(w, norm, x, 0, x.rows, part.a);
      memory.prepared = linear_;
    } else {
      part.a = rows_.view(stride);
    }
    part.panel = chunk / row_parts;
    part.row_begin = chunk % row_parts * part_rows;
    part.row_end = std::min(x.rows, part.row_begin + part_rows);
    part.scratch = scratch(thread, kernels_.gemm_scratch_bytes());
    kernels_.gemm(part);
  });
}

void CpuOps::normalize(const NormArgs& norm, MatrixView x, MatrixView out) {
  for (std::int64_t m = 0; m < x.rows; ++m)
    kernels_.normalize(norm, x.data + m * x.stride, x.cols, out.data + m * out.stride);
}

void CpuOps::project_tokens(const TokenArgs& t, const TokenProjection& p, MatrixView out) {
  constexpr std::int64_t kPart = 16;
  const auto parts = static_cast<int>((t.events + kPart - 1) / kPart);
  const double work = 8.0 * static_cast<double>(t.events) * static_cast<double>(p.width);
  share(parts, work, [&](int part, int thread) {
    auto* const token =
        reinterpret_cast<float*>(scratch(thread, sizeof(float) * static_cast<std::size_t>(t.dim)));
    const std::int64_t end = std::min(t.events, (part + 1) * kPart);
    for (std::int64_t e = part * kPart; e < end; ++e)
      kernels_.project_token(t, p, e, token, out.data + e * out.stride);
  });
}

void CpuOps::ragged_attention(const RaggedAttentionArgs& a) {
  const std::size_t bytes = kernels_.head_attention_scratch_bytes(a.queries, a.head_dim);
  if (a.key_bins) {
    const auto count = static_cast<std::size_t>(a.items * a.queries);
    if (low_.size() < count) {
      low_.resize(count);
      high_.resize(count);
    }
    for (std::size_t i = 0; i < count; ++i) {
      const auto item = i / static_cast<std::size_t>(a.queries);
      const double centre = static_cast<double>(i % static_cast<std::size_t>(a.queries)) *
                            a.item_bins[item] / static_cast<double>(a.queries);
      // The bins b with |centre - b| <= reach, as float64 has it.
      const auto sees = [&](double bin) { return std::abs(centre - bin) <= a.reach_bins; };
      double low = std::ceil(centre - a.reach_bins), high = std::floor(centre + a.reach_bins);
      if (sees(low - 1)) --low;
      if (!sees(low)) ++low;
      if (sees(high + 1)) ++high;
      if (!sees(high)) --high;
      const auto bounded = [](double bin) {
        return static_cast<std::int32_t>(std::clamp(bin, -1e9, 1e9));
      };
      low_[i] = bounded(low);
      high_[i] = bounded(high);
    }
  }
  const double flops = 4.0 * static_cast<double>(a.items) * static_cast<double>(a.queries) *
                       static_cast<double>(a.indptr[a.items]) * a.heads * a.head_dim;
  share(a.items * a.heads, flops, [&](int chunk, int thread) {
    const int item = chunk / a.heads;
    const std::int64_t at = static_cast<std::int64_t>(chunk % a.heads) * a.head_dim;
    const std::int64_t row = item * a.queries;
    const std::int32_t begin = a.indptr[item];
    const auto part = [&](MatrixView whole, std::int64_t first) {
      return MatrixView{whole.data + first * whole.stride + at, 0, a.head_dim, whole.stride};
    };
    HeadAttentionArgs head;
    head.precision = attention_;
    head.head_dim = a.head_dim;
    head.queries = a.queries;
    head.q = part(a.q, a.shared_q ? 0 : row);
    head.keys = a.indptr[item + 1] - begin;
    head.k = part(a.k, begin);
    head.v = part(a.v, begin);
    head.out = part(a.out, row);
    if (a.key_bins) {
      head.key_bins = a.key_bins + begin;
      head.low = low_.data() + row;
      head.high = high_.data() + row;
    }
    head.scratch = scratch(thread, bytes);
    kernels_.head_attention(head);
  });
}

void CpuOps::softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows, MatrixView out) {
  constexpr std::int64_t kColumns = 128;
  const auto columns = static_cast<int>(scores.cols);
  const std::int64_t items = out.rows / columns;
  const std::int64_t parts = (x.cols + kColumns - 1) / kColumns;
  float* const totals =
      reinterpret_cast<float*>(scratch(0, sizeof(float) * static_cast<std::size_t>(out.rows)));
  for (std::int64_t i = 0; i < items; ++i)
    kernels_.soften_columns(scores.data + i * rows * columns, rows, columns, totals + i * columns);
  const double flops = 2.0 * static_cast<double>(rows * out.rows) * static_cast<double>(x.cols);
  share(static_cast<int>(items * parts), flops, [&](int chunk, int) {
    const std::int64_t i = chunk / parts, begin = chunk % parts * kColumns;
    MatrixView from = x, to = out;
    from.data += i * rows * x.stride;
    to.data += i * columns * out.stride;
    kernels_.pool_columns(scores.data + i * rows * columns, rows, columns, totals + i * columns,
                          from, begin, std::min(x.cols, begin + kColumns), to);
  });
}

void CpuOps::mean_rows(MatrixView x, std::int64_t rows, MatrixView out) {
  for (std::int64_t i = 0; i < out.rows; ++i) {
    for (std::int64_t c = 0; c < x.cols; ++c) {
      double sum = 0;
      for (std::int64_t r = 0; r < rows; ++r) sum += x.data[(i * rows + r) * x.stride + c];
      out.data[i * out.stride + c] = static_cast<float>(sum / static_cast<double>(rows));
    }
  }
}

void CpuOps::additive_bag(const StreamTables& t, const StreamEvents& events, MatrixView out) {
  constexpr std::int64_t kColumns = 512;
  const std::int64_t width = static_cast<std::int64_t>(t.latents) * t.dim;
  const std::int64_t parts = (width + kColumns - 1) / kColumns;
  const double flops = 2.0 * static_cast<double>(events.indptr[events.steps]) *
                       static_cast<double>(width) / std::max(1, t.offsets);
  share(static_cast<int>(events.steps * parts), flops, [&](int chunk, int) {
    const auto b = static_cast<std::int32_t>(chunk / parts);
    const std::int64_t first = chunk % parts * kColumns;
    kernels_.additive_bag(t, events, b, first, std::min(width, first + kColumns),
                          out.data + b * width);
  });
}

void CpuOps::stream_cross_attention(const StreamTables& t, const StreamEvents& events,
                                    MatrixView out) {
  const double flops =
      2.0 * static_cast<double>(events.indptr[events.steps] + events.steps) * t.latents * t.dim;
  const int heads = std::max(1, kernels_.lanes / t.latents);  // whose scores fill a vector
  const int parts = (t.heads + heads - 1) / heads;
  share(events.steps * parts, flops, [&](int chunk, int thread) {
    StreamHeadArgs which;
    which.stream = chunk / parts;
    which.head = chunk % parts * heads;
    which.heads = std::min(heads, t.heads - which.head);
    const std::int64_t keys = events.indptr[which.stream + 1] - events.indptr[which.stream] + 1;
    which.scratch = reinterpret_cast<float*>(
        scratch(thread, stream_scratch_bytes(keys, t.latents, t.head_dim)));
    kernels_.stream_cross(t, events, out, which);
  });
}

void CpuOps::paged_attention(const PagedAttentionArgs& a) {
  const std::int64_t page_keys = static_cast<std::int64_t>(a.cache.page_steps) * a.latents;
  const std::int64_t keys = a.steps > 0 ? page_keys * (a.cache.indptr[1] - a.cache.indptr[0]) : 0;
  const double flops = 4.0 * a.steps * a.latents * static_cast<double>(keys) * a.heads * a.head_dim;
  share(a.steps * a.heads, flops, [&](int chunk, int thread) {
    StreamHeadArgs which{chunk / a.heads, chunk % a.heads, 1, nullptr};
    which.scratch = reinterpret_cast<float*>(
        scratch(thread, stream_scratch_bytes(keys, a.latents, a.head_dim)));
    kernels_.paged(a, which);
  });
}

/// Whether this machine multiplies bf16 faster than it widens it: twice as fast on AMD's Zen 4,
/// half as fast as float32 on some of Intel's. Measured, the best of several runs each.
bool bf16_dot_pays() {
#if defined(__x86_64__)
  constexpr std::int64_t kInputs = 256, kRows = 6;
  const auto time = [&](const Kernels& kernels) {
    const PackedLinear weight({Tensor({kernels.format(DType::bf16).columns, kInputs}, DType::bf16)},
                              kernels);
    std::vector<float> x(kRows * kInputs), out(static_cast<std::size_t>(kRows * weight.out()));
    std::vector<float> a(x.size());
    std::vector<std::byte> scratch(kernels.gemm_scratch_bytes());
    GemmArgs args;
    args.precision = DType::bf16;
    args.a.data = reinterpret_cast<std::byte*>(a.data());
    args.a.stride = kInputs * static_cast<std::int64_t>(sizeof(float));
    args.inputs = kInputs;
    args.outputs = weight.out();
    args.weights = weight.panels();
    args.out = matrix(out.data(), kRows, weight.out());
    args.row_end = kRows;
    args.scratch = scratch.data();
    auto best = std::chrono::steady_clock::duration::max();
    for (int run = 0; run < 20; ++run) {
      const auto start = std::chrono::steady_clock::now();
      kernels.gemm(args);
      best = std::min(best, std::chrono::steady_clock::now() - start);
    }
    return best;
  };
  return time(avx512_bf16_kernels()) < time(avx512_kernels());
#else
  return false;
#endif
}

}  // namespace cpu

const std::vector<std::string>& cpu_isas() {
  static const std::vector<std::string> isas = [] {
    std::vector<std::string> found;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni")) {
      found.emplace_back("avx512");
      if (__builtin_cpu_supports("avx512bf16"))
        found.insert(cpu::bf16_dot_pays() ? found.begin() : found.end(), "avx512_bf16");
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.emplace_back("avx2");
#endif
    found.emplace_back("scalar");
    return found;
  }();
  return isas;
}

std::unique_ptr<Ops> make_cpu_ops(const CpuOptions& options) {
  const std::string isa = options.isa.empty() ? cpu_isas().front() : options.isa;
  if (std::find(cpu_isas().begin(), cpu_isas().end(), isa) == cpu_isas().end())
    throw std::invalid_argument("this machine does not run the instruction set '" + isa + "'");
#if defined(__x86_64__)
  for (const cpu::Kernels* kernels :
       {&cpu::avx512_bf16_kernels(), &cpu::avx512_kernels(), &cpu::avx2_kernels()})
    if (isa == kernels->name) return std::make_unique<cpu::CpuOps>(*kernels, options);
#endif
  return std::make_unique<cpu::CpuOps>(cpu::scalar_kernels(), options);
}

}  // namespace cortex
