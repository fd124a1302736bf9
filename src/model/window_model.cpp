#include "model/window_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace cortex {
namespace {

constexpr float kRmsEps = 1e-6f;
constexpr float kLayerEps = 1e-5f;

}  // namespace

void WindowBatch::clear() {
  indptr.assign(1, 0);
  for (auto* v : {&neuron, &bin, &value}) v->clear();
  window_bins.clear();
}

WindowModel::WindowModel(const ModelFile& file, Ops& ops, int capacity, std::int64_t max_events)
    : config_(file.config), ops_(ops) {
  const std::int64_t dim = config_.dim;
  neuron_table_ = upload(file.at("tokenizer.neuron_emb.weight").f32());
  time_table_ = upload(file.at("tokenizer.time_emb.weight").f32());
  value_table_ = upload(file.at("tokenizer.value_emb.weight").f32());
  const auto latents = file.at("encoder.latents").f32();
  latents_.assign(latents.begin(), latents.end());

  const std::string cross = "encoder.cross_attn.";
  project_token_tables(file);
  cross_out_ = ops_.pack_linear(file.linear(cross + "out_proj.weight"));
  for (int i = 0; i < config_.layers; ++i) {
    const std::string block = fmt::format("encoder.self_attn_blocks.{}.", i);
    Block b;
    b.name = fmt::format("block {}", i);
    b.norm_attn = load_norm(file, block + "norm_attn");
    b.norm_mlp = load_norm(file, block + "norm_mlp");
    b.qkv = ops_.pack_linear(file.linear(block + "qkv_proj.weight"));
    b.out = ops_.pack_linear(file.linear(block + "out_proj.weight"));
    b.up = ops_.pack_linear(file.linear(block + "mlp.0.weight"));
    b.down = ops_.pack_linear(file.linear(block + "mlp.2.weight"));
    blocks_.push_back(std::move(b));
  }
  final_norm_ = load_norm(file, "encoder.final_norm");
  head_norm_ = load_norm(file, "behavior_head.norm");
  fold_head(file);

  const auto floats = [&](std::int64_t n) {
    return ops_.allocate(sizeof(float) * static_cast<std::size_t>(n));
  };
  // Queries hold no input: projected once.
  const auto project = [&](const Tensor& rows, const LinearTensor& linear, const NormArgs& norm) {
    // Once, at load: in float32 whatever the precision of the weight.
    const Tensor weight = to_float(linear.weight, linear.scale);
    const auto packed = ops_.pack_linear({weight});
    const Buffer in = upload(rows.f32());
    Buffer out = floats(rows.size(0) * dim);
    ops_.norm_linear(norm, matrix(in.f32(), rows.size(0), dim), *packed, nullptr, Epilogue::store,
                     matrix(out.f32(), rows.size(0), dim));
    return out;
  };
  const Norm norm_q = load_norm(file, cross + "norm_q");
  cross_query_ =
      project(file.at("encoder.latents"), file.linear(cross + "q_proj.weight"), args(norm_q));

  if (file.tensors.count("masked_spike_head.proj.weight") &&
      file.tensors.count("masked_spike_head.proj.bias")) {
    spike_head_ = ops_.pack_linear(file.linear("masked_spike_head.proj.weight"));
    spike_bias_ = upload(file.at("masked_spike_head.proj.bias").f32());
  }
  output_mean_.assign(static_cast<std::size_t>(config_.outputs()), 0.0f);
  output_std_.assign(static_cast<std::size_t>(config_.outputs()), 1.0f);
  if (file.tensors.count("output.mean")) {
    const auto mean = file.at("output.mean").f32();
    output_mean_.assign(mean.begin(), mean.end());
  }
  if (file.tensors.count("output.std")) {
    const auto std = file.at("output.std").f32();
    output_std_.assign(std.begin(), std.end());
  }

  const std::int64_t rows = static_cast<std::int64_t>(capacity) * config_.latents;
  integers_ =
      ops_.allocate(sizeof(std::int32_t) * static_cast<std::size_t>(3 * max_events + capacity + 1));
  item_bins_ = ops_.allocate(sizeof(double) * static_cast<std::size_t>(capacity));
  std::vector<std::int32_t> latent_indptr;
  for (int i = 0; i <= capacity; ++i) latent_indptr.push_back(i * config_.latents);
  latent_indptr_ = ops_.allocate(latent_indptr.size() * sizeof(std::int32_t));
  ops_.upload(latent_indptr_, latent_indptr.data(), latent_indptr.size() * sizeof(std::int32_t));
  kv_ = floats(std::max(max_events, rows) * 2 * dim);
  z_ = floats(rows * dim);
  qkv_ = floats(rows * 3 * dim);
  attention_ = floats(rows * dim);
  hidden_ = floats(rows * config_.hidden());
  final_ = floats(rows * dim);
  const std::int64_t head_rows = static_cast<std::int64_t>(config_.outputs()) * config_.heads;
  head_scores_ = floats(rows * head_rows);
  head_pooled_ = floats(static_cast<std::int64_t>(capacity) * head_rows * dim);
  y_ = floats(static_cast<std::int64_t>(capacity) *
              std::max(config_.outputs(), config_.value_buckets));
  host_y_.resize(static_cast<std::size_t>(capacity) * static_cast<std::size_t>(config_.outputs()));
  OpsCapacity most;
  most.rows = std::max(max_events, rows);
  most.inputs = std::max(config_.hidden(), config_.heads * config_.dim);
  most.queries = rows;
  most.keys = std::max<std::int64_t>(max_events, config_.latents);
  most.head_dim = config_.head_dim;
  ops_.reserve(most);
}

Buffer WindowModel::upload(std::span<const float> values) {
  Buffer buffer = ops_.allocate(values.size_bytes());
  ops_.upload(buffer, values.data(), values.size_bytes());
  return buffer;
}

WindowModel::Norm WindowModel::load_norm(const ModelFile& file, const std::string& name) {
  Norm norm;
  norm.gain = upload(file.at(name + ".weight").f32());
  if (config_.norm == NormKind::layernorm) norm.bias = upload(file.at(name + ".bias").f32());
  return norm;
}

void WindowModel::project_token_tables(const ModelFile& file) {
  const std::string cross = "encoder.cross_attn.", name = cross + "norm_kv";
  const LinearTensor linear = file.linear(cross + "kv_proj.weight");
  const Tensor weight = to_float(linear.weight, linear.scale);
  const auto packed = ops_.pack_linear({weight});
  const auto gain = file.at(name + ".weight").f32();
  const bool layer = config_.norm == NormKind::layernorm;
  projection_.norm = layer ? NormArgs::Kind::layer : NormArgs::Kind::rms;
  projection_.eps = layer ? kLayerEps : kRmsEps;
  projection_.width = weight.size(0);
  // float32 tables would undo a part of what a narrow model saves.
  projection_.dtype = file.precision() == DType::f32 ? DType::f32 : DType::bf16;
  // rows times gain, through the weight.
  const auto project = [&](std::span<const float> rows, bool scaled) {
    std::vector<float> x(rows.begin(), rows.end());
    if (scaled)
      for (std::size_t i = 0; i < x.size(); ++i) x[i] *= gain[i % gain.size()];
    const auto n = static_cast<std::int64_t>(x.size()) / weight.size(1);
    const Buffer in = upload(x);
    const Buffer out = ops_.allocate(sizeof(float) * static_cast<std::size_t>(n * weight.size(0)));
    ops_.norm_linear({}, matrix(in.f32(), n, weight.size(1)), *packed, nullptr, Epilogue::store,
                     matrix(out.f32(), n, weight.size(0)));
    Tensor host({n, weight.size(0)});
    ops_.download(host.f32().data(), out.f32(), host.bytes());
    return host;
  };
  const auto keep = [&](const Tensor& table) -> const void* {
    projected_.push_back(ops_.allocate(table.bytes()));
    ops_.upload(projected_.back(), table.data(), table.bytes());
    return projected_.back().as<void>();
  };
  const auto keep_table = [&](const char* tensor) {
    const Tensor table = project(file.at(tensor).f32(), true);
    return keep(projection_.dtype == DType::f32 ? table.clone() : to_bfloat16(table));
  };
  projection_.neuron_table = keep_table("tokenizer.neuron_emb.weight");
  projection_.time_table = keep_table("tokenizer.time_emb.weight");
  projection_.value_table = keep_table("tokenizer.value_emb.weight");
  if (!layer) return;
  const std::vector<float> ones(gain.size(), 1.0f);
  projection_.mean_factor = static_cast<const float*>(keep(project(ones, true)));
  projection_.bias = static_cast<const float*>(keep(project(file.at(name + ".bias").f32(), false)));
}

void WindowModel::fold_head(const ModelFile& file) {
  const auto plain = [&](const char* name) {
    const LinearTensor linear = file.linear(std::string("behavior_head.") + name);
    return to_float(linear.weight, linear.scale);
  };
  const Tensor query = to_float(file.at("behavior_head.query")), w_q = plain("q_proj.weight");
  const Tensor w_kv = plain("kv_proj.weight"), w_out = plain("out_proj.weight");
  const std::int64_t dim = config_.dim, head_dim = config_.head_dim;
  const double scale = 1.0 / std::sqrt(static_cast<double>(head_dim));
  Tensor score({config_.outputs() * config_.heads, dim}), value({1, config_.heads * dim});
  const auto at = [](const Tensor& t, std::int64_t row, std::int64_t column) {
    return static_cast<double>(t.f32()[static_cast<std::size_t>(row * t.size(1) + column)]);
  };
  std::vector<double> sum(static_cast<std::size_t>(dim));
  const auto keep = [&](Tensor& to, std::int64_t row, double factor) {
    for (std::size_t d = 0; d < sum.size(); ++d)
      to.f32()[static_cast<std::size_t>(row * dim) + d] = static_cast<float>(factor * sum[d]);
    sum.assign(sum.size(), 0.0);
  };
  // sum += factor * row `row` of the K and V projection.
  const auto accumulate = [&](double factor, std::int64_t row) {
    for (std::int64_t d = 0; d < dim; ++d)
      sum[static_cast<std::size_t>(d)] += factor * at(w_kv, row, d);
  };
  for (std::int64_t h = 0; h < config_.heads; ++h) {
    for (std::int64_t o = 0; o < config_.outputs(); ++o) {
      for (std::int64_t i = h * head_dim; i < (h + 1) * head_dim; ++i) {
        double q = 0;
        for (std::int64_t d = 0; d < dim; ++d) q += at(query, o, d) * at(w_q, i, d);
        accumulate(q, i);
      }
      keep(score, o * config_.heads + h, scale);
    }
    for (std::int64_t i = h * head_dim; i < (h + 1) * head_dim; ++i)
      accumulate(at(w_out, 0, i), dim + i);
    keep(value, h, 1);
  }
  head_score_ = ops_.pack_linear({score});
  head_value_ = ops_.pack_linear({value});
}

NormArgs WindowModel::args(const Norm& norm) const {
  if (config_.norm == NormKind::layernorm)
    return {NormArgs::Kind::layer, norm.gain.f32(), norm.bias.f32(), kLayerEps};
  return {NormArgs::Kind::rms, norm.gain.f32(), nullptr, kRmsEps};
}

MatrixView WindowModel::latent_rows(const Buffer& buffer, int cols) const {
  return matrix(buffer.f32(), static_cast<std::int64_t>(windows_) * config_.latents, cols);
}

void WindowModel::encode_events(const WindowBatch& batch) {
  const int dim = config_.dim;
  const auto events = static_cast<std::int64_t>(batch.neuron.size());
  std::int32_t* at = integers_.as<std::int32_t>();
  const auto put = [&](const std::vector<std::int32_t>& v) -> const std::int32_t* {
    std::int32_t* to = at;
    const std::size_t bytes = v.size() * sizeof(std::int32_t);
    ops_.upload(Buffer(to, bytes, [](void*) {}), v.data(), bytes);
    at += v.size();
    return to;
  };
  TokenArgs tokens;
  tokens.neuron_table = neuron_table_.f32();
  tokens.time_table = time_table_.f32();
  tokens.value_table = value_table_.f32();
  tokens.value_buckets = config_.value_buckets;
  tokens.events = events;
  tokens.neuron = put(batch.neuron);
  tokens.bin = put(batch.bin);
  tokens.value = put(batch.value);
  tokens.dim = dim;
  ops_.section("tokens");
  const MatrixView kv = matrix(kv_.f32(), events, 2 * dim);
  ops_.project_tokens(tokens, projection_, kv);

  RaggedAttentionArgs cross;
  cross.items = windows_;
  cross.heads = config_.heads;
  cross.head_dim = config_.head_dim;
  cross.queries = config_.latents;
  cross.q = matrix(cross_query_.f32(), config_.latents, dim);
  cross.shared_q = true;
  cross.k = kv;
  cross.v = kv;
  cross.v.data += dim;
  cross.indptr = put(batch.indptr);
  cross.out = latent_rows(attention_, dim);
  if (config_.receptive_ms > 0) {
    ops_.upload(item_bins_, batch.window_bins.data(), batch.window_bins.size() * sizeof(double));
    cross.key_bins = tokens.bin;
    cross.reach_bins = config_.receptive_ms / config_.bin_ms;
    cross.item_bins = item_bins_.as<double>();
  }
  ops_.section("cross-attention");
  ops_.ragged_attention(cross);

  const std::size_t item_bytes = latents_.size() * sizeof(float);
  for (int i = 0; i < windows_; ++i)
    ops_.upload(
        Buffer(z_.f32() + static_cast<std::size_t>(i) * latents_.size(), item_bytes, [](void*) {}),
        latents_.data(), item_bytes);
  ops_.norm_linear({}, cross.out, *cross_out_, nullptr, Epilogue::add, latent_rows(z_, dim));
}

void WindowModel::run_block(const Block& block) {
  ops_.section(block.name.c_str());
  const int dim = config_.dim;
  const MatrixView z = latent_rows(z_, dim);
  const MatrixView qkv = latent_rows(qkv_, 3 * dim);
  const MatrixView hidden = latent_rows(hidden_, config_.hidden());
  ops_.norm_linear(args(block.norm_attn), z, *block.qkv, nullptr, Epilogue::store, qkv);

  RaggedAttentionArgs self;
  self.items = windows_;
  self.heads = config_.heads;
  self.head_dim = config_.head_dim;
  self.queries = config_.latents;
  self.q = self.k = self.v = qkv;
  self.k.data += dim;
  self.v.data += 2 * dim;
  self.indptr = latent_indptr_.as<std::int32_t>();
  self.out = latent_rows(attention_, dim);
  ops_.ragged_attention(self);

  ops_.norm_linear({}, self.out, *block.out, nullptr, Epilogue::add, z);
  ops_.norm_linear(args(block.norm_mlp), z, *block.up, nullptr, Epilogue::gelu, hidden);
  ops_.norm_linear({}, hidden, *block.down, nullptr, Epilogue::add, z);
}

std::span<const float> WindowModel::forward(const WindowBatch& batch) {
  const ForwardScope scope(ops_);
  windows_ = batch.windows();
  const int dim = config_.dim;
  const int outputs = config_.outputs();
  encode_events(batch);
  for (const Block& block : blocks_) run_block(block);
  ops_.section("head");
  const MatrixView final = latent_rows(final_, dim);
  ops_.normalize(args(final_norm_), latent_rows(z_, dim), final);
  const MatrixView keys = latent_rows(attention_, dim);
  ops_.normalize(args(head_norm_), final, keys);
  const MatrixView scores = latent_rows(head_scores_, outputs * config_.heads);
  ops_.norm_linear({}, keys, *head_score_, nullptr, Epilogue::store, scores);
  const std::int64_t answers = static_cast<std::int64_t>(windows_) * outputs;
  ops_.softmax_pool(scores, keys, config_.latents,
                    matrix(head_pooled_.f32(), answers * config_.heads, dim));
  ops_.norm_linear({}, matrix(head_pooled_.f32(), answers, config_.heads * dim), *head_value_,
                   nullptr, Epilogue::store, matrix(y_.f32(), answers, 1));

  const auto n = static_cast<std::size_t>(answers);
  ops_.download(host_y_.data(), y_.f32(), n * sizeof(float));
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t o = i % static_cast<std::size_t>(outputs);
    host_y_[i] = host_y_[i] * output_std_[o] + output_mean_[o];
  }
  return {host_y_.data(), n};
}

std::vector<float> WindowModel::masked_spike_logits() {
  if (!spike_head_) return {};
  const MatrixView pooled = matrix(attention_.f32(), windows_, config_.dim);
  ops_.mean_rows(latent_rows(final_, config_.dim), config_.latents, pooled);
  ops_.norm_linear({}, pooled, *spike_head_, spike_bias_.f32(), Epilogue::store,
                   matrix(y_.f32(), windows_, config_.value_buckets));
  std::vector<float> logits(static_cast<std::size_t>(windows_ * config_.value_buckets));
  ops_.download(logits.data(), y_.f32(), logits.size() * sizeof(float));
  return logits;
}

}  // namespace cortex
