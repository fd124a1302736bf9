#include "model/stream_model.h"

#include <fmt/format.h>

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

StreamModel::StreamModel(const ModelFile& file, Ops& ops, int capacity, int page_steps, float* pool,
                         std::int64_t page_floats)
    : config_(file.config),
      ops_(ops),
      page_steps_(page_steps),
      pool_(pool),
      page_floats_(page_floats),
      block_rotary_(config_.head_dim, config_.block_period_min_ms, config_.block_period_max_ms) {
  project_tables(file);
  cross_out_ = ops_.pack_linear(file.at("cross.out"));
  for (int i = 0; i < config_.layers; ++i) {
    const auto name = [&](const char* part) { return fmt::format("blocks.{}.{}", i, part); };
    Block b;
    b.norm_attn = upload(file.at(name("norm_attn")).f32());
    b.norm_mlp = upload(file.at(name("norm_mlp")).f32());
    b.qkv = ops_.pack_linear(file.at(name("qkv")));
    b.out = ops_.pack_linear(file.at(name("out")));
    b.up = ops_.pack_linear(file.at(name("up")));
    b.down = ops_.pack_linear(file.at(name("down")));
    blocks_.push_back(std::move(b));
  }
  final_norm_ = upload(file.at("final_norm").f32());
  head_ = ops_.pack_linear(file.at("head.weight"));
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
  const int pages = (config_.window_steps + page_steps - 1) / page_steps;
  integers_ = ops_.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(capacity) *
                            static_cast<std::size_t>(3 * events + pages + 8));
  ops_.reserve(std::max<std::int64_t>(
      events + 1, static_cast<std::int64_t>(config_.window_steps) * config_.latents));
}

Buffer StreamModel::upload(std::span<const float> values) {
  Buffer buffer = ops_.allocate(values.size_bytes());
  ops_.upload(buffer, values.data(), values.size_bytes());
  return buffer;
}

NormArgs StreamModel::rms(const Buffer& gain) const {
  return {NormArgs::Kind::rms, gain.f32(), nullptr, kNormEps};
}

void StreamModel::project_tables(const ModelFile& file) {
  const auto keep = [&](std::span<const float> values) -> const float* {
    table_buffers_.push_back(upload(values));
    return table_buffers_.back().f32();
  };
  const std::int64_t dim = config_.dim;
  const Tensor& units = file.at("tokenizer.unit_emb");
  const Tensor& values = file.at("tokenizer.value_emb");
  const Tensor& latents = file.at("latents");
  const auto kv = ops_.pack_linear(file.at("cross.kv"));
  const auto q = ops_.pack_linear(file.at("cross.q"));
  const auto project = [&](const NormArgs& norm, std::span<const float> rows,
                           const LinearWeight& weight) -> const float* {
    const Buffer in = upload(rows);
    const auto n = static_cast<std::int64_t>(rows.size()) / weight.in();
    Buffer out = ops_.allocate(sizeof(float) * static_cast<std::size_t>(n * weight.out()));
    ops_.norm_linear(norm, matrix(in.f32(), n, weight.in()), weight, nullptr, Epilogue::store,
                     matrix(out.f32(), n, weight.out()));
    table_buffers_.push_back(std::move(out));
    return table_buffers_.back().f32();
  };
  // The gain of a norm folds into what it multiplies; its 1/rms stays a factor of the sum.
  const auto gain = file.at("cross.norm_kv").f32();
  tables_.unit_kv = project({}, scale_columns(units, gain).f32(), *kv);
  tables_.value_kv = project({}, scale_columns(values, gain).f32(), *kv);
  tables_.rstd = keep(token_rstd(units, values));
  const Buffer norm_q = upload(file.at("cross.norm_q").f32());
  tables_.query = project(rms(norm_q), latents.f32(), *q);
  tables_.null_v = keep(file.at("cross.null_v").f32());
  tables_.latent = keep(latents.f32());
  tables_.additive = keep(file.at("tokenizer.additive").f32());

  tables_.dim = config_.dim;
  tables_.heads = config_.heads;
  tables_.head_dim = config_.head_dim;
  tables_.latents = config_.latents;
  tables_.value_buckets = config_.value_buckets;

  std::vector<float> query(static_cast<std::size_t>(config_.latents * dim));
  ops_.download(query.data(), tables_.query, query.size() * sizeof(float));
  const auto null_k = file.at("cross.null_k").f32();
  const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
  std::vector<float> null_score;
  for (int r = 0; r < config_.latents; ++r) {
    for (int h = 0; h < config_.heads; ++h) {
      double sum = 0;
      for (int d = h * config_.head_dim; d < (h + 1) * config_.head_dim; ++d)
        sum += static_cast<double>(query[static_cast<std::size_t>(r * dim + d)]) *
               null_k[static_cast<std::size_t>(d)];
      null_score.push_back(static_cast<float>(scale * sum));
    }
  }
  tables_.null_score = keep(null_score);

  // Attention sees only the difference of two times: the step's end is time 0, and an event's
  // centre lies (offset + 1/2) bins before it.
  const Rotary rotary(config_.head_dim, config_.cross_period_min_ms, config_.cross_period_max_ms);
  const auto half = static_cast<std::size_t>(rotary.pairs());
  const auto offsets = static_cast<std::size_t>(config_.receptive_steps * config_.bins_per_step());
  std::vector<float> cosines(offsets * half);
  std::vector<float> sines(offsets * half);
  for (std::size_t o = 0; o < offsets; ++o)
    rotary.phases(-(static_cast<double>(o) + 0.5) * config_.bin_ms, &cosines[o * half],
                  &sines[o * half]);
  tables_.offset_cos = keep(cosines);
  tables_.offset_sin = keep(sines);
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
  cache_ = {pool_,
            page_floats_,
            page_steps_,
            config_.window_steps,
            put(batch.page_indptr),
            put(batch.pages),
            put(batch.slot),
            put(batch.live)};
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
  upload_batch(batch);
  const std::int64_t rows = static_cast<std::int64_t>(batch.steps) * config_.latents;
  const std::int64_t dim = config_.dim;
  const MatrixView z = matrix(z_.f32(), rows, dim);
  const MatrixView attention = matrix(attention_.f32(), rows, dim);
  const MatrixView qkv = matrix(qkv_.f32(), rows, 3 * dim);
  const MatrixView hidden = matrix(hidden_.f32(), rows, config_.hidden());

  ops_.additive_bag(tables_, events_, z);
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
    ops_.norm_linear(rms(b.norm_attn), z, *b.qkv, nullptr, Epilogue::store, qkv);
    ops_.rotate_append(paged);
    ops_.paged_attention(paged);
    ops_.norm_linear({}, attention, *b.out, nullptr, Epilogue::add, z);
    ops_.norm_linear(rms(b.norm_mlp), z, *b.up, nullptr, Epilogue::gelu, hidden);
    ops_.norm_linear({}, hidden, *b.down, nullptr, Epilogue::add, z);
  }
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
