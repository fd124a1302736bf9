#include "model/window_model.h"

#include <fmt/format.h>

#include <algorithm>

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
  cross_norm_kv_ = load_norm(file, cross + "norm_kv");
  cross_kv_ = ops_.pack_linear(file.linear(cross + "kv_proj.weight"));
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
  head_kv_ = ops_.pack_linear(file.linear("behavior_head.kv_proj.weight"));
  head_out_ = ops_.pack_linear(file.linear("behavior_head.out_proj.weight"));

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
  head_query_ =
      project(file.at("behavior_head.query"), file.linear("behavior_head.q_proj.weight"), {});

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
  tokens_ = floats(max_events * dim);
  kv_ = floats(std::max(max_events, rows) * 2 * dim);
  z_ = floats(rows * dim);
  qkv_ = floats(rows * 3 * dim);
  attention_ = floats(rows * dim);
  hidden_ = floats(rows * config_.hidden());
  final_ = floats(rows * dim);
  head_attention_ = floats(static_cast<std::int64_t>(capacity) * config_.outputs() * dim);
  y_ = floats(static_cast<std::int64_t>(capacity) *
              std::max(config_.outputs(), config_.value_buckets));
  host_y_.resize(static_cast<std::size_t>(capacity) * static_cast<std::size_t>(config_.outputs()));
  OpsCapacity most;
  most.rows = std::max(max_events, rows);
  most.inputs = config_.hidden();
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
  tokens.out = matrix(tokens_.f32(), events, dim);
  ops_.section("tokens");
  ops_.gather_tokens(tokens);
  const MatrixView kv = matrix(kv_.f32(), events, 2 * dim);
  ops_.norm_linear(args(cross_norm_kv_), tokens.out, *cross_kv_, nullptr, Epilogue::store, kv);

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
  const MatrixView kv = latent_rows(kv_, 2 * dim);
  ops_.normalize(args(final_norm_), latent_rows(z_, dim), final);
  ops_.norm_linear(args(head_norm_), final, *head_kv_, nullptr, Epilogue::store, kv);

  RaggedAttentionArgs head;
  head.items = windows_;
  head.heads = config_.heads;
  head.head_dim = config_.head_dim;
  head.queries = outputs;
  head.q = matrix(head_query_.f32(), outputs, dim);
  head.shared_q = true;
  head.k = kv;
  head.v = kv;
  head.v.data += dim;
  head.indptr = latent_indptr_.as<std::int32_t>();
  head.out = matrix(head_attention_.f32(), static_cast<std::int64_t>(windows_) * outputs, dim);
  ops_.ragged_attention(head);
  ops_.norm_linear({}, head.out, *head_out_, nullptr, Epilogue::store,
                   matrix(y_.f32(), head.out.rows, 1));

  const auto n = static_cast<std::size_t>(head.out.rows);
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
