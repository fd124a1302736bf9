#include "model/stream_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

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

void StreamBatch::reserve(int n, std::int64_t events, int page_count) {
  const auto count = static_cast<std::size_t>(n);
  const std::size_t event_count = count * static_cast<std::size_t>(events);
  for (auto* v : {&unit, &value, &offset}) v->reserve(event_count);
  for (auto* v : {&indptr, &page_indptr}) v->reserve(count + 1);
  for (auto* v : {&present, &slot, &live}) v->reserve(count);
  step.reserve(count);
  pages.reserve(count * static_cast<std::size_t>(page_count));
}

void StreamBatch::clear() {
  steps = 0;
  step.clear();
  for (auto* v : {&present, &unit, &value, &offset, &pages, &slot, &live}) v->clear();
  indptr.assign(1, 0);
  page_indptr.assign(1, 0);
}

StreamModel::StreamModel(const ModelFile& file, Ops& ops, int capacity, const StreamPages& pages)
    : config_(file.config),
      ops_(ops),
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
    b.qkv = ops_.pack_linear(file.linear(name("qkv")));
    b.out = ops_.pack_linear(file.linear(name("out")));
    b.up = ops_.pack_linear(file.linear(name("up")));
    b.down = ops_.pack_linear(file.linear(name("down")));
    blocks_.push_back(std::move(b));
  }
  final_norm_ = upload(file.at("final_norm").f32());
  head_ = ops_.pack_linear(file.linear("head.weight"));
  head_bias_ = upload(file.at("head.bias").f32());
  const auto mean = file.at("output.mean").f32();
  const auto std = file.at("output.std").f32();
  output_mean_.assign(mean.begin(), mean.end());
  output_std_.assign(std.begin(), std.end());

  const auto rows = static_cast<std::size_t>(capacity) * config_.latents;
  const auto floats = [&](std::size_t n) { return ops_.allocate(n * sizeof(float)); };
  const auto dim = static_cast<std::size_t>(config_.dim);
  z_ = floats(rows * dim);
  qkv_ = floats(rows * 3 * dim);
  attention_ = floats(rows * dim);
  hidden_ = floats(rows * static_cast<std::size_t>(config_.hidden()));
  normed_ = floats(rows * dim);
  y_ = floats(static_cast<std::size_t>(capacity) * output_mean_.size());
  host_y_.resize(static_cast<std::size_t>(capacity) * output_mean_.size());
  host_phases_.resize(static_cast<std::size_t>(capacity) * config_.head_dim);
  phases_ = floats(host_phases_.size());
  const std::int64_t events =
      static_cast<std::int64_t>(config_.receptive_steps) * config_.max_events_per_step;
  const int page_count = (config_.window_steps + pages.page_steps - 1) / pages.page_steps;
  integers_ = ops_.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(capacity) *
                            static_cast<std::size_t>(3 * events + page_count + 8));
  OpsCapacity most;
  most.rows = static_cast<std::int64_t>(rows);
  most.inputs = std::max(config_.hidden(), config_.latents * config_.dim);
  most.keys = std::max<std::int64_t>(
      events + 1, static_cast<std::int64_t>(page_count) * pages.page_steps * config_.latents);
  most.latents = config_.latents;
  most.head_dim = config_.head_dim;
  ops_.reserve(most);
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

void StreamModel::upload_batch(const StreamBatch& batch) {
  // One block of integers: a backend copies it once.
  std::int32_t* const base = integers_.as<std::int32_t>();
  std::size_t at = 0;
  const auto put = [&](const std::vector<std::int32_t>& v) -> const std::int32_t* {
    std::int32_t* to = base + at;
    ops_.upload(Buffer(to, v.size() * sizeof(std::int32_t), [](void*) {}), v.data(),
                v.size() * sizeof(std::int32_t));
    at += v.size();
    return to;
  };
  events_ = {batch.steps,     put(batch.indptr), put(batch.present),
             put(batch.unit), put(batch.value),  put(batch.offset)};
  cache_ = {pages_.pool,       pages_.page_bytes,    pages_.dtype,
            pages_.page_steps, config_.window_steps, put(batch.page_indptr),
            put(batch.pages),  put(batch.slot),      put(batch.live)};
  const int half = block_rotary_.pairs();
  float* cosines = host_phases_.data();
  float* sines = cosines + static_cast<std::size_t>(batch.steps) * half;
  for (int b = 0; b < batch.steps; ++b)
    block_rotary_.phases(
        static_cast<double>(batch.step[static_cast<std::size_t>(b)] + 1) * config_.step_ms,
        cosines + static_cast<std::size_t>(b) * half, sines + static_cast<std::size_t>(b) * half);
  ops_.upload(phases_, host_phases_.data(),
              sizeof(float) * 2 * static_cast<std::size_t>(batch.steps) * half);
}

std::span<const float> StreamModel::forward(const StreamBatch& batch) {
  const ForwardScope scope(ops_);
  upload_batch(batch);
  const std::int64_t rows = static_cast<std::int64_t>(batch.steps) * config_.latents;
  const std::int64_t dim = config_.dim;
  const MatrixView z = matrix(z_.f32(), rows, dim);
  const MatrixView attention = matrix(attention_.f32(), rows, dim);
  const MatrixView qkv = matrix(qkv_.f32(), rows, 3 * dim);
  const MatrixView hidden = matrix(hidden_.f32(), rows, config_.hidden());

  ops_.section("tokens");
  ops_.additive_bag(tables_, events_, z);
  ops_.section("cross-attention");
  ops_.stream_cross_attention(tables_, events_, attention);
  ops_.norm_linear({}, attention, *cross_out_, nullptr, Epilogue::add, z);

  PagedAttentionArgs paged;
  paged.steps = batch.steps;
  paged.heads = config_.heads;
  paged.head_dim = config_.head_dim;
  paged.latents = config_.latents;
  paged.qkv = qkv;
  paged.cosines = phases_.f32();
  paged.sines = phases_.f32() + static_cast<std::int64_t>(batch.steps) * block_rotary_.pairs();
  paged.cache = cache_;
  paged.out = attention;
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    const Block& b = blocks_[i];
    paged.layer = static_cast<int>(i);
    ops_.section(b.name.c_str());
    ops_.norm_linear(rms(b.norm_attn), z, *b.qkv, nullptr, Epilogue::store, qkv);
    ops_.paged_attention(paged);
    ops_.norm_linear({}, attention, *b.out, nullptr, Epilogue::add, z);
    ops_.norm_linear(rms(b.norm_mlp), z, *b.up, nullptr, Epilogue::gelu, hidden);
    ops_.norm_linear({}, hidden, *b.down, nullptr, Epilogue::add, z);
  }
  ops_.section("head");
  const auto outputs = static_cast<std::int64_t>(output_mean_.size());
  ops_.normalize(rms(final_norm_), z, matrix(normed_.f32(), rows, dim));
  ops_.norm_linear({}, matrix(normed_.f32(), batch.steps, config_.latents * dim), *head_,
                   head_bias_.f32(), Epilogue::store, matrix(y_.f32(), batch.steps, outputs));

  const auto n = static_cast<std::size_t>(batch.steps * outputs);
  ops_.download(host_y_.data(), y_.f32(), n * sizeof(float));
  for (std::size_t i = 0; i < n; ++i)
    host_y_[i] =
        host_y_[i] * output_std_[i % output_std_.size()] + output_mean_[i % output_std_.size()];
  return {host_y_.data(), n};
}

}  // namespace cortex
