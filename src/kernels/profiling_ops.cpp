#include "kernels/profiling_ops.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>

namespace cortex {
namespace {

// The largest plan has a dozen blocks of about seven kinds; what does not fit shares the last row.
constexpr std::size_t kMostEntries = 512;
constexpr const char* kInput = "input";  // before a plan names its first section
constexpr double kFloat = sizeof(float);

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

/// Queries that see a key of `bin`: |i * bins / queries - bin| <= reach.
double visible_queries(std::int64_t queries, double bins, double bin, double reach) {
  const double per_bin = static_cast<double>(queries) / bins;
  const double first = std::max(0.0, std::ceil((bin - reach) * per_bin));
  const double last =
      std::min(static_cast<double>(queries - 1), std::floor((bin + reach) * per_bin));
  return std::max(0.0, last - first + 1);
}

double visible_pairs(const RaggedAttentionArgs& a) {
  double pairs = 0;
  for (int item = 0; item < a.items; ++item) {
    const std::int32_t begin = a.indptr[item];
    const std::int32_t end = a.indptr[item + 1];
    if (a.key_bins == nullptr) {
      pairs += static_cast<double>(a.queries) * (end - begin);
      continue;
    }
    for (std::int32_t j = begin; j < end; ++j)
      pairs += visible_queries(a.queries, a.item_bins[item], a.key_bins[j], a.reach_bins);
  }
  return pairs;
}

}  // namespace

double floor_ns(const ProfileEntry& entry, const Ceilings& ceilings) {
  // GFLOP/s and GB/s are FLOP and bytes a nanosecond.
  const double arithmetic = ceilings.gflops > 0 ? entry.flop / ceilings.gflops : 0;
  const double bytes = entry.weight_bytes + entry.other_bytes;
  const double memory = ceilings.gbs > 0 ? bytes / ceilings.gbs : 0;
  return std::max(arithmetic, memory);
}

ProfilingOps::ProfilingOps(Ops& inner) : ForwardingOps(inner), entries_(kMostEntries) {}

void ProfilingOps::reset() {
  std::fill(entries_.begin(), entries_.end(), ProfileEntry{});
  used_ = 0;
  forwards_ = 0;
  forward_ns_ = 0;
}

ProfileEntry& ProfilingOps::entry(const char* operation, std::int64_t out, std::int64_t in) {
  for (std::size_t i = 0; i < used_; ++i) {
    ProfileEntry& e = entries_[i];
    if (e.operation == operation && e.out == out && e.in == in &&
        std::strncmp(e.section.data(), section_, e.section.size() - 1) == 0)
      return e;
  }
  if (used_ == entries_.size()) return entries_.back();
  ProfileEntry& fresh = entries_[used_++];
  std::strncpy(fresh.section.data(), section_, fresh.section.size() - 1);
  fresh.operation = operation;
  fresh.out = out;
  fresh.in = in;
  return fresh;
}

template <class Call, class Count>
void ProfilingOps::timed(const char* operation, std::int64_t out, std::int64_t in, Call&& call,
                         Count&& count) {
  if (!recording_) return call();
  const std::int64_t began = now_ns();
  call();
  const std::int64_t took = now_ns() - began;
  const Work work = count();
  ProfileEntry& e = entry(operation, out, in);
  ++e.calls;
  e.ns += took;
  e.flop += work.flop;
  e.weight_bytes += work.weight_bytes;
  e.other_bytes += work.other_bytes;
}

void ProfilingOps::begin_forward() {
  recording_ = wanted_;
  section_ = kInput;
  if (recording_) forward_began_ns_ = now_ns();
  base_.begin_forward();
}

void ProfilingOps::end_forward() {
  base_.end_forward();
  if (!recording_) return;
  forward_ns_ += now_ns() - forward_began_ns_;
  ++forwards_;
  recording_ = false;
}

void ProfilingOps::section(const char* name) {
  section_ = name;
  base_.section(name);
}

std::unique_ptr<LinearWeight> ProfilingOps::pack_linear(const LinearTensor& linear) {
  auto packed = base_.pack_linear(linear);
  packed_bytes_[packed.get()] =
      static_cast<double>(linear.weight.bytes() + (linear.scale ? linear.scale->bytes() : 0));
  return packed;
}

void ProfilingOps::clear(const Buffer& buffer) {
  timed(
      "clear", 0, 0, [&] { base_.clear(buffer); },
      [&] {
        return Work{0, 0, static_cast<double>(buffer.bytes())};
      });
}

void ProfilingOps::upload(const Buffer& to, const void* host, std::size_t bytes) {
  timed(
      "upload", 0, 0, [&] { base_.upload(to, host, bytes); },
      [&] {
        return Work{0, 0, static_cast<double>(bytes)};
      });
}

void ProfilingOps::download(void* host, const float* from, std::size_t bytes) {
  timed(
      "download", 0, 0, [&] { base_.download(host, from, bytes); },
      [&] {
        return Work{0, 0, static_cast<double>(bytes)};
      });
}

void ProfilingOps::send(const SharedBuffer& buffer, std::size_t offset, std::size_t bytes) {
  timed(
      "send", 0, 0, [&] { base_.send(buffer, offset, bytes); }, [] { return Work{}; });
}

void ProfilingOps::receive(const SharedBuffer& buffer, std::size_t bytes) {
  timed(
      "receive", 0, 0, [&] { base_.receive(buffer, bytes); }, [] { return Work{}; });
}

void ProfilingOps::repeat_rows(MatrixView x, MatrixView out) {
  timed(
      "repeat_rows", 0, 0, [&] { base_.repeat_rows(x, out); },
      [&] {
        return Work{0, 0, static_cast<double>(out.rows * out.cols) * kFloat};
      });
}

void ProfilingOps::phases(const PhaseArgs& args) {
  timed(
      "phases", 0, 0, [&] { base_.phases(args); }, [] { return Work{}; });
}

void ProfilingOps::norm_linear(const NormArgs& norm, MatrixView x, const LinearWeight& weight,
                               const float* bias, Epilogue epilogue, MatrixView out) {
  timed(
      "norm_linear", weight.out(), weight.in(),
      [&] { base_.norm_linear(norm, x, weight, bias, epilogue, out); },
      [&] {
        const double flop = 2.0 * static_cast<double>(x.rows) * static_cast<double>(weight.out()) *
                            static_cast<double>(weight.in());
        const auto bytes = packed_bytes_.find(&weight);
        return Work{flop, bytes == packed_bytes_.end() ? 0 : bytes->second, 0};
      });
}

void ProfilingOps::normalize(const NormArgs& norm, MatrixView x, MatrixView out) {
  timed(
      "normalize", 0, 0, [&] { base_.normalize(norm, x, out); }, [] { return Work{}; });
}

void ProfilingOps::project_tokens(const TokenArgs& tokens, const TokenProjection& projection,
                                  MatrixView out) {
  timed(
      "project_tokens", 0, 0, [&] { base_.project_tokens(tokens, projection, out); },
      [&] {
        const auto events = static_cast<double>(tokens.events);
        const auto width = static_cast<double>(projection.width);
        return Work{
            events * (4.0 * tokens.dim + 3 * width), 0,
            3 * events *
                (tokens.dim * kFloat + width * static_cast<double>(size_of(projection.dtype)))};
      });
}

void ProfilingOps::ragged_attention(const RaggedAttentionArgs& args) {
  timed(
      "ragged_attention", 0, 0, [&] { base_.ragged_attention(args); },
      [&] {
        return Work{4.0 * visible_pairs(args) * args.heads * args.head_dim, 0, 0};
      });
}

void ProfilingOps::softmax_pool(MatrixView scores, MatrixView x, std::int64_t rows,
                                MatrixView out) {
  timed(
      "softmax_pool", 0, 0, [&] { base_.softmax_pool(scores, x, rows, out); },
      [&] {
        return Work{2.0 * static_cast<double>(rows * out.rows) * static_cast<double>(out.cols), 0,
                    0};
      });
}

void ProfilingOps::mean_rows(MatrixView x, std::int64_t rows, MatrixView out) {
  timed(
      "mean_rows", 0, 0, [&] { base_.mean_rows(x, rows, out); },
      [&] {
        return Work{static_cast<double>(x.rows * x.cols), 0, 0};
      });
}

void ProfilingOps::additive_bag(const StreamTables& tables, const StreamEvents& events,
                                MatrixView out) {
  timed(
      "additive_bag", 0, 0, [&] { base_.additive_bag(tables, events, out); },
      [&] {
        double present = 0;
        for (int b = 0; b < events.steps; ++b) present += events.indptr[b + 1] - events.present[b];
        const double sums = present * tables.latents * tables.dim;
        return Work{2 * sums, 0, sums * kFloat};
      });
}

void ProfilingOps::stream_cross_attention(const StreamTables& tables, const StreamEvents& events,
                                          MatrixView out) {
  timed(
      "stream_cross_attention", 0, 0, [&] { base_.stream_cross_attention(tables, events, out); },
      [&] {
        // An event's V is the sum of two rows, its score the sum of two table entries.
        const double n = events.indptr[events.steps];
        const double dims = n * tables.latents * tables.dim;
        const double scores = n * tables.latents * tables.heads;
        return Work{3 * dims + 2 * scores, 0, 2 * (n * tables.dim + scores) * kFloat};
      });
}

void ProfilingOps::paged_attention(const PagedAttentionArgs& args) {
  timed(
      "paged_attention", 0, 0, [&] { base_.paged_attention(args); },
      [&] {
        double live = 0;
        for (int b = 0; b < args.steps; ++b) live += args.cache.live[b];
        const double keys = live * args.latents * args.heads * args.head_dim;
        // The present step's q and k are turned.
        const double turned = 6.0 * args.steps * args.latents * args.heads * args.head_dim;
        return Work{4 * keys * args.latents + turned, 0,
                    2 * keys * static_cast<double>(size_of(args.cache.dtype))};
      });
}

}  // namespace cortex
