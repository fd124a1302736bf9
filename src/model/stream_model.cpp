#include "model/stream_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>

namespace cortex {
namespace {

constexpr float kNormEps = 1e-6f;

/// Rows of `table` times `gain`, as a tensor.
Tensor scale_columns(const Tensor& table, std::span<const float> gain) {
  Tensor scaled = table.clone();
  const auto v = scaled.f32();
  for (std::size_t i = 0; i < v.size(); ++i) v[i] *= gain[i % gain.size()];
  return scaled;
}

/// 1 / rms of every sum of a unit's and a value's embedding. [units, values]
std::vector<float> token_rstd(const Tensor& units, const Tensor& values) {
  const auto dim = static_cast<std::size_t>(units.size(1));
  std::vector<float> rstd;
  for (std::size_t u = 0; u < static_cast<std::size_t>(units.size(0)); ++u) {
    for (std::size_t v = 0; v < static_cast<std::size_t>(values.size(0)); ++v) {
      double square = 0;
      for (std::size_t d = 0; d < dim; ++d) {
        const double x = units.f32()[u * dim + d] + values.f32()[v * dim + d];
        square += x * x;
      }
      rstd.push_back(
          static_cast<float>(1.0 / std::sqrt(square / static_cast<double>(dim) + kNormEps)));
    }
  }
  return rstd;
}

/// The V half of rows [.., 2 dim] of K and V.
std::vector<float> values_of(std::span<const float> kv, int dim) {
  std::vector<float> v;
  const auto width = static_cast<std::size_t>(dim);
  for (std::size_t row = 0; row < kv.size(); row += 2 * width)
    v.insert(v.end(), kv.begin() + static_cast<std::ptrdiff_t>(row + width),
             kv.begin() + static_cast<std::ptrdiff_t>(row + 2 * width));
  return v;
}

}  // namespace

StreamModel::StreamModel(const ModelFile& file, Ops& ops, int capacity, const StreamPages& pages,
                         int lanes)
    : StreamForward(lanes),
      config_(file.config),
      ops_(ops),
      capacity_(capacity),
      pages_(pages),
      block_rotary_(config_.head_dim, config_.block_period_min_ms, config_.block_period_max_ms) {
  project_tables(file);
  cross_out_ = ops_.pack_linear(file.linear("cross.out"));
  for (int i = 0; i < config_.layers; ++i) {
    const auto name = [&](const char* part) { return fmt::format("blocks.{}.{}", i, part); };
    Block b;
    b.name = fmt::format("block {}", i);
    b.norm_attn = upload(file.at(name("norm_attn")).f32());
    b.norm_mlp = upload(file.at(name("norm_mlp")).f32());
    b.qkv = ops_.pack_linear(file.linear(name("qkv"), name("norm_attn")));
    b.out = ops_.pack_linear(file.linear(name("out")));
    b.up = ops_.pack_linear(file.linear(name("up"), name("norm_mlp")));
    b.down = ops_.pack_linear(file.linear(name("down")));
    blocks_.push_back(std::move(b));
  }
  for (const Block& b : blocks_)
    block_args_.push_back({b.name.c_str(), rms(b.norm_attn), rms(b.norm_mlp), b.qkv.get(),
                           b.out.get(), b.up.get(), b.down.get()});
  final_norm_ = upload(file.at("final_norm").f32());
  head_ = ops_.pack_linear(file.linear("head.weight"));
  head_bias_ = upload(file.at("head.bias").f32());
  const auto mean = file.at("output.mean").f32();
  const auto std = file.at("output.std").f32();
  output_mean_.assign(mean.begin(), mean.end());
  output_std_.assign(std.begin(), std.end());

  activation_ = ops_.activation_dtype(file.precision());
  const auto steps = static_cast<std::size_t>(ops_.rounded_items(capacity));
  const auto rows = steps * static_cast<std::size_t>(config_.latents);
  const auto dim = static_cast<std::size_t>(config_.dim);
  const auto floats = [&](std::size_t n) { return ops_.allocate(n * sizeof(float)); };
  const auto activations = [&](std::size_t columns) {
    return ops_.allocate(rows * columns * size_of(activation_));
  };
  z_ = floats(rows * dim);
  qkv_ = activations(3 * dim);
  attention_ = activations(dim);
  hidden_ = activations(static_cast<std::size_t>(config_.hidden()));
  normed_ = activations(dim);
  periods_ = ops_.allocate(block_rotary_.periods_ms().size() * sizeof(double));
  ops_.upload(periods_, block_rotary_.periods_ms().data(), periods_.bytes());
  cosines_ = floats(steps * block_rotary_.periods_ms().size());
  sines_ = floats(steps * block_rotary_.periods_ms().size());
  const std::int64_t events =
      static_cast<std::int64_t>(config_.receptive_steps) * config_.max_events_per_step;
  page_count_ = (config_.window_steps + pages.page_steps - 1) / pages.page_steps;
  reserve_lanes(steps, static_cast<std::size_t>(capacity) * static_cast<std::size_t>(events));
  OpsCapacity most;
  most.rows = static_cast<std::int64_t>(rows);
  most.inputs = std::max(config_.hidden(), config_.latents * config_.dim);
  most.keys = std::max<std::int64_t>(
      events + 1, static_cast<std::int64_t>(page_count_) * pages.page_steps * config_.latents);
  most.latents = config_.latents;
  most.head_dim = config_.head_dim;
  ops_.reserve(most);
}

void StreamModel::reserve_lanes(std::size_t steps, std::size_t events) {
  events_at_ = header_bytes(steps);
  lanes_.resize(static_cast<std::size_t>(lanes()));
  for (int i = 0; i < lanes(); ++i) {
    Lane& lane = lanes_[static_cast<std::size_t>(i)];
    lane.inputs = ops_.allocate_shared(SharedUse::input, events_at_ + events * sizeof(StreamEvent));
    lane.y = ops_.allocate_shared(SharedUse::output, steps * output_mean_.size() * sizeof(float));
    lane.host_y.resize(static_cast<std::size_t>(capacity_) * output_mean_.size());
    lane.phases.step_ms = config_.step_ms;
    lane.phases.pairs = block_rotary_.pairs();
    lane.phases.periods_ms = periods_.as<double>();
    lane.phases.cosines = cosines_.f32();
    lane.phases.sines = sines_.f32();
    batch(i).room = {reinterpret_cast<StreamEvent*>(lane.inputs.host.as<std::byte>() + events_at_),
                     events};
    batch(i).reserve(steps, static_cast<std::size_t>(page_count_));
  }
}

Buffer StreamModel::upload(std::span<const float> values) {
  Buffer buffer = ops_.allocate(values.size_bytes());
  ops_.upload(buffer, values.data(), values.size_bytes());
  return buffer;
}

NormArgs StreamModel::rms(const Buffer& gain) const {
  return {NormArgs::Kind::rms, gain.f32(), nullptr, kNormEps};
}

const float* StreamModel::keep(std::span<const float> values) {
  table_buffers_.push_back(upload(values));
  return table_buffers_.back().f32();
}

std::vector<float> StreamModel::project(const NormArgs& norm, std::span<const float> rows,
                                        const LinearTensor& linear) {
  const Tensor weight = to_float(linear.weight, linear.scale);
  const auto packed = ops_.pack_linear({weight});
  const auto n = static_cast<std::int64_t>(rows.size()) / packed->in();
  const Buffer in = upload(rows);
  std::vector<float> host(static_cast<std::size_t>(n * packed->out()));
  const Buffer out = ops_.allocate(host.size() * sizeof(float));
  ops_.norm_linear(norm, matrix(in.f32(), n, packed->in()), *packed, nullptr, Epilogue::store,
                   matrix(out.f32(), n, packed->out()));
  ops_.download(host.data(), out.f32(), host.size() * sizeof(float));
  return host;
}

void StreamModel::project_tables(const ModelFile& file) {
  const Tensor& units = file.at("tokenizer.unit_emb");
  const Tensor& values = file.at("tokenizer.value_emb");
  const Tensor& latents = file.at("latents");
  tables_.dim = config_.dim;
  tables_.heads = config_.heads;
  tables_.head_dim = config_.head_dim;
  tables_.latents = config_.latents;
  tables_.value_buckets = config_.value_buckets;
  tables_.offsets = config_.receptive_steps * config_.bins_per_step();
  tables_.rstd = keep(token_rstd(units, values));
  tables_.null_v = keep(file.at("cross.null_v").f32());
  tables_.latent = keep(latents.f32());
  tables_.additive = keep(file.at("tokenizer.additive").f32());

  // The gain of a norm folds into what it multiplies; its 1/rms stays a factor of the sum.
  const auto gain = file.at("cross.norm_kv").f32();
  const auto kv = file.linear("cross.kv");
  const std::vector<float> unit_kv = project({}, scale_columns(units, gain).f32(), kv);
  const std::vector<float> value_kv = project({}, scale_columns(values, gain).f32(), kv);
  const Buffer norm_q = upload(file.at("cross.norm_q").f32());
  const std::vector<float> query = project(rms(norm_q), latents.f32(), file.linear("cross.q"));
  tables_.unit_v = keep(values_of(unit_kv, config_.dim));
  tables_.value_v = keep(values_of(value_kv, config_.dim));
  tables_.null_score = keep(head_products(query, file.at("cross.null_k").f32()));
  project_scores(unit_kv, value_kv, query);
}

std::vector<float> StreamModel::head_products(std::span<const float> query,
                                              std::span<const float> key) const {
  const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
  const auto width = static_cast<std::size_t>(config_.head_dim);
  const std::size_t rows = query.size() / key.size();
  std::vector<float> scores;
  for (std::size_t head = 0; head < key.size(); head += width) {
    for (std::size_t r = 0; r < rows; ++r) {
      double sum = 0;
      for (std::size_t d = head; d < head + width; ++d)
        sum += static_cast<double>(query[r * key.size() + d]) * key[d];
      scores.push_back(static_cast<float>(scale * sum));
    }
  }
  return scores;
}

void StreamModel::project_scores(std::span<const float> unit_kv, std::span<const float> value_kv,
                                 std::span<const float> query) {
  // Attention sees only the difference of two times: the step's end is time 0, and an event's
  // centre lies (offset + 1/2) bins before it. Turning the query on by that is turning the key
  // back.
  const Rotary rotary(config_.head_dim, config_.cross_period_min_ms, config_.cross_period_max_ms);
  const auto half = static_cast<std::size_t>(rotary.pairs());
  const auto dim = static_cast<std::size_t>(config_.dim);
  const auto offsets = static_cast<std::size_t>(tables_.offsets);
  std::vector<float> turned;  // [offsets, R, dim]
  std::vector<float> cosines(half), sines(half);
  for (std::size_t o = 0; o < offsets; ++o) {
    rotary.phases((static_cast<double>(o) + 0.5) * config_.bin_ms, cosines.data(), sines.data());
    for (std::size_t head = 0; head < query.size(); head += 2 * half) {
      for (std::size_t i = 0; i < half; ++i)
        turned.push_back(query[head + i] * cosines[i] - query[head + i + half] * sines[i]);
      for (std::size_t i = 0; i < half; ++i)
        turned.push_back(query[head + i] * sines[i] + query[head + i + half] * cosines[i]);
    }
  }
  const auto scores = [&](std::span<const float> kv) {
    std::vector<float> table;  // [rows, offsets, heads * R]
    for (std::size_t row = 0; row < kv.size(); row += 2 * dim) {
      for (std::size_t o = 0; o < offsets; ++o) {
        const auto products = head_products(
            std::span(turned).subspan(o * query.size(), query.size()), kv.subspan(row, dim));
        table.insert(table.end(), products.begin(), products.end());
      }
    }
    return table;
  };
  tables_.unit_score = keep(scores(unit_kv));
  tables_.value_score = keep(scores(value_kv));
}

std::size_t StreamModel::header_bytes(std::size_t steps) const {
  const std::size_t bytes =
      steps * sizeof(std::int64_t) +
      ((5 + static_cast<std::size_t>(page_count_)) * steps + 2) * sizeof(std::int32_t);
  constexpr std::size_t kAlign = 16;
  return (bytes + kAlign - 1) / kAlign * kAlign;
}

void StreamModel::send_batch(const StreamBatch& batch, int steps, Lane& lane) {
  const auto n = static_cast<std::size_t>(steps);
  const std::size_t begin = events_at_ - header_bytes(n);
  std::size_t at = begin;
  // Copies `values` and the padding behind them.
  const auto put = [&](const auto& values, std::size_t count, auto padding) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    T* const to = reinterpret_cast<T*>(lane.inputs.host.as<std::byte>() + at);
    std::copy(values.begin(), values.end(), to);
    std::fill(to + values.size(), to + count, static_cast<T>(padding));
    const auto* const here = reinterpret_cast<const T*>(lane.inputs.device.as<std::byte>() + at);
    at += count * sizeof(T);
    return here;
  };
  lane.events.steps = lane.phases.steps = steps;
  lane.phases.step = put(batch.step, n, 0);
  lane.events.indptr = put(batch.indptr, n + 1, batch.indptr.back());
  lane.events.present = put(batch.present, n, batch.indptr.back());
  lane.events.event =
      reinterpret_cast<const StreamEvent*>(lane.inputs.device.as<std::byte>() + events_at_);
  lane.cache = {pages_.pool, pages_.page_bytes, pages_.dtype, pages_.page_steps,
                config_.window_steps};
  lane.cache.indptr = put(batch.page_indptr, n + 1, batch.page_indptr.back());
  lane.cache.pages = put(batch.pages, n * static_cast<std::size_t>(page_count_), 0);
  lane.cache.slot = put(batch.slot, n, 0);
  lane.cache.live = put(batch.live, n, 0);
  const auto events = static_cast<std::size_t>(batch.indptr.back());
  ops_.send(lane.inputs, begin, events_at_ - begin + events * sizeof(StreamEvent));
}

void StreamModel::launch(int lane) {
  launch_padded(lane, static_cast<int>(ops_.rounded_items(batch(lane).steps)));
}

std::span<const float> StreamModel::finish(int lane) {
  Lane& l = lanes_[static_cast<std::size_t>(lane)];
  const auto n = static_cast<std::size_t>(batch(lane).steps) * output_mean_.size();
  ops_.receive(l.y, n * sizeof(float));
  const auto* const y = l.y.host.as<float>();
  for (std::size_t i = 0; i < n; ++i)
    l.host_y[i] = y[i] * output_std_[i % output_std_.size()] + output_mean_[i % output_std_.size()];
  return {l.host_y.data(), n};
}

void StreamModel::launch_padded(int lane, int steps) {
  Lane& l = lanes_[static_cast<std::size_t>(lane)];
  const ForwardScope scope(ops_);
  send_batch(batch(lane), steps, l);
  if (ops_.begin_calls({&l, steps, 0})) {
    run(steps, l);
    ops_.end_calls();
  }
  ops_.expect(l.y);
}

void StreamModel::warm_up() {
  if (!ops_.keeps_calls()) return;
  for (int lane = 0; lane < lanes(); ++lane) {
    batch(lane).clear();
    for (std::int64_t n = 1; n <= capacity_; ++n) {
      n = ops_.rounded_items(n);
      launch_padded(lane, static_cast<int>(n));
      (void)finish(lane);
    }
  }
}

void StreamModel::run(int steps, const Lane& lane) {
  const std::int64_t rows = static_cast<std::int64_t>(steps) * config_.latents;
  const std::int64_t dim = config_.dim;
  const MatrixView z = matrix(z_.f32(), rows, dim);
  const MatrixView attention = matrix(attention_.f32(), rows, dim, activation_);

  ops_.stream_inputs(lane.phases, tables_, lane.events, z, attention);

  StreamBlocksArgs args;
  args.cross_out = cross_out_.get();
  args.blocks = block_args_;
  args.attention.steps = steps;
  args.attention.heads = config_.heads;
  args.attention.head_dim = config_.head_dim;
  args.attention.latents = config_.latents;
  args.attention.qkv = matrix(qkv_.f32(), rows, 3 * dim, activation_);
  args.attention.cosines = lane.phases.cosines;
  args.attention.sines = lane.phases.sines;
  args.attention.cache = lane.cache;
  args.attention.out = attention;
  args.z = z;
  args.hidden = matrix(hidden_.f32(), rows, config_.hidden(), activation_);
  ops_.stream_blocks(args);
  ops_.section("head");
  const auto outputs = static_cast<std::int64_t>(output_mean_.size());
  ops_.norm_concat_linear(rms(final_norm_), z, matrix(normed_.f32(), rows, dim, activation_),
                          *head_, head_bias_.f32(), matrix(lane.y.device.f32(), steps, outputs));
}

std::size_t StreamModel::resident_bytes() const {
  std::size_t bytes = 0;
  const auto add = [&](const auto&... parts) { ((bytes += parts.bytes()), ...); };
  add(*cross_out_, final_norm_, *head_, head_bias_, periods_);
  for (const Buffer& table : table_buffers_) add(table);
  for (const Block& b : blocks_) add(b.norm_attn, b.norm_mlp, *b.qkv, *b.out, *b.up, *b.down);
  return bytes;
}

}  // namespace cortex
