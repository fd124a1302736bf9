#include "model/window_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace cortex {
namespace {

constexpr float kRmsEps = 1e-6f;
constexpr float kLayerEps = 1e-5f;

}  // namespace

WindowModel::WindowModel(const ModelFile& file, Ops& ops, int capacity, std::int64_t max_events)
    : WindowForward(capacity, max_events), config_(file.config), ops_(ops) {
  const std::int64_t dim = config_.dim;
  activation_ = ops_.activation_dtype(file.precision());
  neuron_table_ = upload(file.at("tokenizer.neuron_emb.weight").f32());
  time_table_ = upload(file.at("tokenizer.time_emb.weight").f32());
  value_table_ = upload(file.at("tokenizer.value_emb.weight").f32());
  residual_ = ops_.residual_dtype(file.precision(), dim);

  const std::string cross = "encoder.cross_attn.";
  project_token_tables(file);
  cross_out_ = pack(file.linear(cross + "out_proj.weight"), false);
  for (int i = 0; i < config_.layers; ++i) {
    const std::string block = fmt::format("encoder.self_attn_blocks.{}.", i);
    Block b;
    b.name = fmt::format("block {}", i);
    b.norm_attn = load_norm(file, block + "norm_attn");
    b.norm_mlp = load_norm(file, block + "norm_mlp");
    const auto norm = [&](const char* name) {
      return config_.norm == NormKind::rmsnorm ? block + name + ".weight" : "";
    };
    b.qkv = pack(file.linear(block + "qkv_proj.weight", norm("norm_attn")), true);
    b.out = pack(file.linear(block + "out_proj.weight"), false);
    b.up = pack(file.linear(block + "mlp.0.weight", norm("norm_mlp")), true);
    b.down = pack(file.linear(block + "mlp.2.weight"), true);
    blocks_.push_back(std::move(b));
  }
  for (const Block& b : blocks_)
    block_args_.push_back({b.name.c_str(), args(b.norm_attn), args(b.norm_mlp), b.qkv.get(),
                           b.out.get(), b.up.get(), b.down.get()});
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
  const auto upload_as = [&](DType dtype, const Tensor& rows) {
    if (dtype == DType::f32) return upload(rows.f32());
    const Tensor narrow = to_bfloat16(rows);
    Buffer to = ops_.allocate(narrow.bytes());
    ops_.upload(to, narrow.data(), narrow.bytes());
    return to;
  };
  const Tensor& latents = file.at("encoder.latents");
  latents_ = upload_as(residual_, latents);
  const Norm norm_q = load_norm(file, cross + "norm_q");
  cross_query_ = project(latents, file.linear(cross + "q_proj.weight"), args(norm_q));
  if (activation_ == DType::bf16) {
    Tensor wide({config_.latents, dim});
    ops_.download(wide.f32().data(), cross_query_.f32(), wide.bytes());
    cross_query_ = upload_as(DType::bf16, wide);
  }

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

  const std::int64_t windows = ops_.rounded_items(capacity);
  const std::int64_t events = ops_.rounded_events(max_events);
  const std::int64_t rows = windows * config_.latents;
  const auto activations = [&](std::int64_t n) {
    return ops_.allocate(size_of(activation_) * static_cast<std::size_t>(n));
  };
  inputs_ = ops_.allocate_shared(SharedUse::input, WindowBatch::bytes(windows, events));
  lay_out_batch(0, 0);
  std::vector<std::int32_t> latent_indptr;
  for (int i = 0; i <= windows; ++i) latent_indptr.push_back(i * config_.latents);
  latent_indptr_ = ops_.allocate(latent_indptr.size() * sizeof(std::int32_t));
  ops_.upload(latent_indptr_, latent_indptr.data(), latent_indptr.size() * sizeof(std::int32_t));
  kv_ = activations(events * 2 * dim);
  z_ = ops_.allocate(size_of(residual_) * static_cast<std::size_t>(rows * dim));
  qkv_ = activations(rows * 3 * dim);
  attention_ = activations(rows * dim);
  hidden_ = activations(rows * config_.hidden());
  final_ = activations(rows * dim);
  const std::int64_t head_rows = static_cast<std::int64_t>(config_.outputs()) * config_.heads;
  head_scores_ = floats(rows * head_rows);
  head_pooled_ = floats(windows * head_rows * dim);
  y_ = ops_.allocate_shared(SharedUse::output,
                            sizeof(float) * static_cast<std::size_t>(windows * config_.outputs()));
  logits_ = floats(windows * config_.value_buckets);
  host_y_.resize(static_cast<std::size_t>(capacity) * static_cast<std::size_t>(config_.outputs()));
  OpsCapacity most;
  most.rows = rows;
  most.inputs = std::max(config_.hidden(), config_.heads * config_.dim);
  most.queries = rows;
  most.keys = std::max<std::int64_t>(events, config_.latents);
  most.head_dim = config_.head_dim;
  ops_.reserve(most);
}

Buffer WindowModel::upload(std::span<const float> values) {
  Buffer buffer = ops_.allocate(values.size_bytes());
  ops_.upload(buffer, values.data(), values.size_bytes());
  return buffer;
}

std::unique_ptr<LinearWeight> WindowModel::pack(LinearTensor linear, bool narrow) {
  linear.any_order = true;
  linear.narrow = narrow;
  return ops_.pack_linear(linear);
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
  projection_.dtype =
      file.precision() == DType::f32 ? ops_.activation_dtype(DType::f32) : DType::bf16;
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
  // Tables of squares would cost float32 some of its exactness.
  if (!layer && activation_ != DType::f32) square_token_tables(file);
  if (!layer) return;
  const std::vector<float> ones(gain.size(), 1.0f);
  projection_.mean_factor = static_cast<const float*>(keep(project(ones, true)));
  projection_.bias = static_cast<const float*>(keep(project(file.at(name + ".bias").f32(), false)));
}

void WindowModel::square_token_tables(const ModelFile& file) {
  const Tensor& neuron = file.at("tokenizer.neuron_emb.weight");
  const Tensor& time = file.at("tokenizer.time_emb.weight");
  const Tensor& value = file.at("tokenizer.value_emb.weight");
  // |a + b|^2 = |a|^2 + |b|^2 + 2 a.b, each square counted once over the three pairs.
  const auto keep = [&](const Tensor& a, bool a_counts, const Tensor& b, bool b_counts) {
    const auto squares = [&](const Tensor& table, bool counts) {
      std::vector<double> sums(static_cast<std::size_t>(table.size(0)));
      for (std::int64_t i = 0; counts && i < table.count(); ++i) {
        const double x = table.f32()[static_cast<std::size_t>(i)];
        sums[static_cast<std::size_t>(i / config_.dim)] += x * x;
      }
      return sums;
    };
    const auto of_a = squares(a, a_counts), of_b = squares(b, b_counts);
    const auto packed = ops_.pack_linear({b});
    const Buffer in = upload(a.f32());
    Tensor sums({a.size(0), b.size(0)});
    projected_.push_back(ops_.allocate(sums.bytes()));
    const Buffer& out = projected_.back();
    ops_.norm_linear({}, matrix(in.f32(), a.size(0), config_.dim), *packed, nullptr,
                     Epilogue::store, matrix(out.f32(), a.size(0), b.size(0)));
    ops_.download(sums.f32().data(), out.f32(), sums.bytes());
    for (std::size_t i = 0; i < sums.f32().size(); ++i)
      sums.f32()[i] = static_cast<float>(
          (of_a[i / of_b.size()] + of_b[i % of_b.size()] + 2.0 * sums.f32()[i]) / config_.dim);
    ops_.upload(out, sums.data(), sums.bytes());
    return static_cast<const float*>(out.f32());
  };
  projection_.neuron_time = keep(neuron, true, time, true);
  projection_.neuron_value = keep(neuron, false, value, true);
  projection_.time_value = keep(time, false, value, false);
  projection_.bins = time.size(0);
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

MatrixView WindowModel::latent_rows(const Buffer& buffer, int cols, DType dtype) const {
  return matrix(buffer.f32(), static_cast<std::int64_t>(windows_) * config_.latents, cols, dtype);
}

MatrixView WindowModel::activation_rows(const Buffer& buffer, int cols) const {
  return latent_rows(buffer, cols, activation_);
}

void WindowModel::lay_out_batch(std::int64_t windows, std::int64_t events) {
  batch_.lay_out(inputs_.host.as<std::byte>(), ops_.rounded_items(windows),
                 ops_.rounded_events(events));
}

void WindowModel::send_batch() {
  const std::int32_t events = batch_.events();
  const auto pad = [](auto room, std::int64_t used, auto with) {
    std::fill(room.begin() + used, room.end(), with);
  };
  pad(batch_.window_bins, batch_.windows, 1.0);
  pad(batch_.indptr, batch_.windows + 1, events);
  for (const auto room : {batch_.neuron, batch_.bin, batch_.value}) pad(room, events, 0);
  const auto on_device = [this](const auto* host) {
    const auto offset = reinterpret_cast<const std::byte*>(host) - inputs_.host.as<std::byte>();
    return reinterpret_cast<decltype(host)>(inputs_.device.as<std::byte>() + offset);
  };
  item_bins_ = on_device(batch_.window_bins.data());
  indptr_ = on_device(batch_.indptr.data());
  tokens_.neuron = on_device(batch_.neuron.data());
  tokens_.bin = on_device(batch_.bin.data());
  tokens_.value = on_device(batch_.value.data());
  tokens_.events = static_cast<std::int64_t>(batch_.neuron.size());
  windows_ = static_cast<int>(batch_.window_bins.size());
  ops_.send(inputs_, 0, WindowBatch::bytes(windows_, tokens_.events));
}

void WindowModel::encode_events() {
  const int dim = config_.dim;
  tokens_.neuron_table = neuron_table_.f32();
  tokens_.time_table = time_table_.f32();
  tokens_.value_table = value_table_.f32();
  tokens_.value_buckets = config_.value_buckets;
  tokens_.dim = dim;
  ops_.section("tokens");
  const MatrixView kv = matrix(kv_.f32(), tokens_.events, 2 * dim, activation_);
  ops_.project_tokens(tokens_, projection_, kv);

  RaggedAttentionArgs cross;
  cross.items = windows_;
  cross.heads = config_.heads;
  cross.head_dim = config_.head_dim;
  cross.queries = config_.latents;
  cross.q = matrix(cross_query_.f32(), config_.latents, dim, activation_);
  cross.shared_q = true;
  cross.k = kv;
  cross.v = kv.from_column(dim);
  cross.indptr = indptr_;
  cross.out = activation_rows(attention_, dim);
  if (config_.receptive_ms > 0) {
    cross.key_bins = tokens_.bin;
    cross.reach_bins = config_.receptive_ms / config_.bin_ms;
    cross.item_bins = item_bins_;
  }
  ops_.section("cross-attention");
  ops_.ragged_attention(cross);
}

void WindowModel::run_blocks() {
  const int dim = config_.dim;
  WindowBlocksArgs args;
  args.latents = matrix(latents_.f32(), config_.latents, dim, residual_);
  args.cross_out = cross_out_.get();
  args.blocks = block_args_;
  args.z = residual_rows();
  args.qkv = activation_rows(qkv_, 3 * dim);
  args.hidden = activation_rows(hidden_, config_.hidden());
  RaggedAttentionArgs& self = args.attention;
  self.items = windows_;
  self.heads = config_.heads;
  self.head_dim = config_.head_dim;
  self.queries = config_.latents;
  self.q = args.qkv;
  self.k = args.qkv.from_column(dim);
  self.v = args.qkv.from_column(2 * dim);
  self.indptr = latent_indptr_.as<std::int32_t>();
  self.out = activation_rows(attention_, dim);
  ops_.window_blocks(args);
}

std::span<const float> WindowModel::forward() {
  run_batch();
  const auto outputs = static_cast<std::size_t>(config_.outputs());
  const std::size_t n = static_cast<std::size_t>(batch_.windows) * outputs;
  for (std::size_t i = 0; i < n; ++i)
    host_y_[i] = y_.host.as<float>()[i] * output_std_[i % outputs] + output_mean_[i % outputs];
  return {host_y_.data(), n};
}

void WindowModel::run_batch() {
  const ForwardScope scope(ops_);
  send_batch();
  if (ops_.begin_calls({this, windows_, tokens_.events})) {
    run();
    ops_.end_calls();
  }
  ops_.expect(y_);
  ops_.receive(y_, sizeof(float) * static_cast<std::size_t>(batch_.windows * config_.outputs()));
}

void WindowModel::warm_up() {
  if (!ops_.keeps_calls()) return;
  for (std::int64_t n = 1; n <= capacity_; ++n) {
    n = ops_.rounded_items(n);
    const std::int64_t most = max_events_ / capacity_ * n;
    for (std::int64_t events = 0; events <= most; ++events) {
      events = ops_.rounded_events(events);
      lay_out_batch(n, events);
      run_batch();
    }
  }
}

void WindowModel::run() {
  const int dim = config_.dim;
  encode_events();
  run_blocks();
  ops_.section("head");
  const std::int64_t queries = std::int64_t{config_.outputs()} * config_.heads;
  LatentHeadArgs head;
  head.heads = config_.heads;
  head.latents = config_.latents;
  head.first = args(final_norm_);
  head.second = args(head_norm_);
  head.x = residual_rows();
  head.score = head_score_.get();
  head.value = head_value_.get();
  head.keys = activation_rows(attention_, dim);
  head.scores = latent_rows(head_scores_, static_cast<int>(queries));
  head.pooled = matrix(head_pooled_.f32(), windows_ * queries, dim);
  head.out = matrix(y_.device.f32(), windows_, config_.outputs());
  ops_.latent_head(head);
}

std::vector<float> WindowModel::masked_spike_logits() {
  if (!spike_head_) return {};
  const MatrixView final = activation_rows(final_, config_.dim);
  ops_.normalize(args(final_norm_), residual_rows(), final);
  const MatrixView pooled = matrix(attention_.f32(), windows_, config_.dim, activation_);
  ops_.mean_rows(final, config_.latents, pooled);
  ops_.norm_linear({}, pooled, *spike_head_, spike_bias_.f32(), Epilogue::store,
                   matrix(logits_.f32(), windows_, config_.value_buckets));
  std::vector<float> logits(static_cast<std::size_t>(windows_ * config_.value_buckets));
  ops_.download(logits.data(), logits_.f32(), logits.size() * sizeof(float));
  return logits;
}

std::size_t WindowModel::resident_bytes() const {
  std::size_t bytes = 0;
  const auto add = [&](const auto&... parts) { ((bytes += parts.bytes()), ...); };
  add(neuron_table_, time_table_, value_table_, latents_, cross_query_, *cross_out_, *head_score_,
      *head_value_, spike_bias_);
  if (spike_head_) add(*spike_head_);
  for (const Buffer& table : projected_) add(table);
  const auto add_norm = [&](const Norm& norm) { add(norm.gain, norm.bias); };
  add_norm(final_norm_);
  add_norm(head_norm_);
  for (const Block& b : blocks_) {
    add_norm(b.norm_attn);
    add_norm(b.norm_mlp);
    add(*b.qkv, *b.out, *b.up, *b.down);
  }
  return bytes;
}

}  // namespace cortex
