#include "train/window_net.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/ops.h"

namespace cortex::train {
namespace {

using torch::Tensor;

// Windows decoded at once: bounds the memory of an evaluation.
constexpr std::size_t kGroup = 256;

Tensor attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& banned) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(-1)));
  Tensor scores = product(q * scale, k.transpose(-2, -1));
  if (!banned.defined()) return product(torch::softmax(scores, -1), v);
  // A row that may see nothing answers 0: its softmax runs over a large finite score and is then
  // multiplied away.
  scores = scores.masked_fill(banned, -1e30);
  const Tensor weights = torch::softmax(scores, -1).masked_fill(banned, 0);
  return product(weights, v);
}

}  // namespace

WindowNet::WindowNet(const ModelConfig& config, const Parameters& params, double step_ms)
    : config_(config),
      params_(params),
      window_bins_(config.window_bins > 0 ? config.window_bins : config.max_bins),
      bins_per_step_(std::lround(step_ms / config.bin_ms)) {}

std::int64_t WindowNet::context_steps() const {
  return (window_bins_ + bins_per_step_ - 1) / bins_per_step_ - 1;
}

WindowNet::Windows WindowNet::gather(const CropBatch& batch,
                                     const std::vector<std::int64_t>& rows) const {
  const auto first_event = [&](std::int64_t row) {
    const std::int64_t s = row % batch.steps;
    return batch.indptr[row - std::min(s, context_steps())];
  };
  std::int64_t longest = 1;
  for (const std::int64_t row : rows)
    longest = std::max(longest, batch.indptr[row + 1] - first_event(row));
  const auto n = static_cast<std::int64_t>(rows.size());
  Windows out;
  out.unit = torch::zeros({n, longest}, torch::kInt64);
  out.bin = torch::zeros({n, longest}, torch::kInt64);
  out.value = torch::zeros({n, longest}, torch::kInt64);
  out.absent = torch::ones({n, longest}, torch::kBool);
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int64_t start = (rows[i] % batch.steps + 1) * bins_per_step_ - window_bins_;
    std::int64_t at = i * longest;
    for (std::int64_t e = first_event(rows[i]); e < batch.indptr[rows[i] + 1]; ++e) {
      const Event& event = batch.events[e];
      if (event.bin < start) continue;
      out.unit.data_ptr<std::int64_t>()[at] = event.unit;
      out.bin.data_ptr<std::int64_t>()[at] = event.bin - start;
      out.value.data_ptr<std::int64_t>()[at] =
          std::min<std::int64_t>(event.value, config_.value_buckets - 1);
      out.absent.data_ptr<bool>()[at++] = false;
    }
  }
  for (Tensor* t : {&out.unit, &out.bin, &out.value, &out.absent}) *t = t->to(params_.device());
  return out;
}

Tensor WindowNet::norm(const Tensor& x, const std::string& name) const {
  const Tensor& gain = params_.at(name + ".weight");
  if (config_.norm == NormKind::rmsnorm) return rms_norm(x, gain);
  return torch::layer_norm(x, {config_.dim}, gain, params_.at(name + ".bias"), 1e-5);
}

Tensor WindowNet::heads(const Tensor& x) const {
  return x.view({x.size(0), x.size(1), config_.heads, config_.head_dim})
      .permute({0, 2, 1, 3})
      .contiguous();
}

Tensor WindowNet::decode(const Windows& windows) const {
  const ModelConfig& c = config_;
  const std::int64_t n = windows.unit.size(0);
  const auto weight = [&](const std::string& name) { return params_.at(name + ".weight"); };
  const auto join = [&](const Tensor& x) {
    return x.permute({0, 2, 1, 3}).reshape({n, -1, c.dim});
  };
  const Tensor tokens = torch::embedding(weight("tokenizer.neuron_emb"), windows.unit) +
                        torch::embedding(weight("tokenizer.time_emb"), windows.bin) +
                        torch::embedding(weight("tokenizer.value_emb"), windows.value);

  const std::string cross = "encoder.cross_attn.";
  const Tensor& latents = params_.at("encoder.latents");
  const Tensor q = project(norm(latents, cross + "norm_q"), weight(cross + "q_proj"));
  const Tensor kv = project(norm(tokens, cross + "norm_kv"), weight(cross + "kv_proj"));
  Tensor banned = windows.absent.view({n, 1, 1, -1});
  if (c.receptive_ms > 0) {
    const Tensor nominal =
        torch::arange(c.latents,
                      torch::TensorOptions().dtype(torch::kFloat64).device(params_.device())) *
        (static_cast<double>(window_bins_) / c.latents);
    const Tensor far =
        (windows.bin.to(torch::kFloat64).view({n, 1, 1, -1}) - nominal.view({1, 1, -1, 1})).abs() >
        c.receptive_ms / c.bin_ms;
    banned = torch::logical_or(banned, far);
  }
  const Tensor seen = attention(heads(q.unsqueeze(0)), heads(kv.narrow(-1, 0, c.dim)),
                                heads(kv.narrow(-1, c.dim, c.dim)), banned);
  Tensor z = latents.unsqueeze(0) + project(join(seen), weight(cross + "out_proj"));
  for (int i = 0; i < c.layers; ++i) {
    const std::string block = fmt::format("encoder.self_attn_blocks.{}.", i);
    const auto qkv = project(norm(z, block + "norm_attn"), weight(block + "qkv_proj")).chunk(3, -1);
    const Tensor self = attention(heads(qkv[0]), heads(qkv[1]), heads(qkv[2]), {});
    z = z + project(join(self), weight(block + "out_proj"));
    const Tensor hidden =
        torch::gelu(project(norm(z, block + "norm_mlp"), weight(block + "mlp.0")));
    z = z + project(hidden, weight(block + "mlp.2"));
  }
  const Tensor last = norm(norm(z, "encoder.final_norm"), "behavior_head.norm");
  const Tensor head_q = project(params_.at("behavior_head.query"), weight("behavior_head.q_proj"));
  const auto head_kv = project(last, weight("behavior_head.kv_proj")).chunk(2, -1);
  const Tensor pooled =
      attention(heads(head_q.unsqueeze(0)), heads(head_kv[0]), heads(head_kv[1]), {});
  return project(join(pooled), weight("behavior_head.out_proj")).squeeze(-1);
}

Tensor WindowNet::forward(const CropBatch& batch) const {
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < batch.rows(); ++row)
    if (batch.mask[row]) rows.push_back(row);
  const Tensor& latents = params_.at("encoder.latents");
  const Tensor empty = torch::zeros({batch.rows(), config_.outputs()}, latents.options());
  if (rows.empty()) return empty.view({batch.crops, batch.steps, -1});
  std::vector<Tensor> parts;
  for (std::size_t i = 0; i < rows.size(); i += kGroup) {
    const std::vector<std::int64_t> group(rows.begin() + i,
                                          rows.begin() + std::min(rows.size(), i + kGroup));
    parts.push_back(decode(gather(batch, group)));
  }
  const Tensor index = torch::tensor(rows, torch::kInt64).to(params_.device());
  return empty.index_copy(0, index, torch::cat(parts)).view({batch.crops, batch.steps, -1});
}

}  // namespace cortex::train
