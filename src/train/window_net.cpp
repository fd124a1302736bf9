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
constexpr std::int64_t kGroup = 256;

/// run(first, count) over groups of windows, their results one after the other.
template <class Run>
Tensor by_groups(std::int64_t windows, Run run) {
  std::vector<Tensor> parts;
  for (std::int64_t i = 0; i == 0 || i < windows; i += kGroup)
    parts.push_back(run(i, std::min(kGroup, windows - i)));
  return parts.size() == 1 ? parts.front() : torch::cat(parts);
}

std::vector<std::int64_t> scored_rows(const CropBatch& batch) {
  std::vector<std::int64_t> rows;
  for (std::int64_t row = 0; row < batch.rows(); ++row)
    if (batch.mask[row]) rows.push_back(row);
  return rows;
}

/// Answers of `rows` among zeros, [crops, steps, outputs].
Tensor in_their_rows(const Tensor& answers, const std::vector<std::int64_t>& rows,
                     const CropBatch& batch) {
  const Tensor index = torch::tensor(rows, torch::kInt64).to(answers.device());
  return torch::zeros({batch.rows(), answers.size(1)}, answers.options())
      .index_copy(0, index, answers)
      .view({batch.crops, batch.steps, answers.size(1)});
}

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
      window_bins_(config.nominal_bins()),
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

Tensor WindowNet::join(const Tensor& x) const {
  return x.permute({0, 2, 1, 3}).reshape({x.size(0), x.size(2), config_.dim});
}

Tensor WindowNet::encode(const Windows& windows) const {
  const ModelConfig& c = config_;
  const auto [n, events] = std::pair(windows.unit.size(0), windows.unit.size(1));
  const auto weight = [&](const std::string& name) { return params_.at(name + ".weight"); };
  const Tensor tokens = torch::embedding(weight("tokenizer.neuron_emb"), windows.unit) +
                        torch::embedding(weight("tokenizer.time_emb"), windows.bin) +
                        torch::embedding(weight("tokenizer.value_emb"), windows.value);

  const std::string cross = "encoder.cross_attn.";
  const Tensor& latents = params_.at("encoder.latents");
  const Tensor q = project(norm(latents, cross + "norm_q"), weight(cross + "q_proj"));
  const Tensor kv = project(norm(tokens, cross + "norm_kv"), weight(cross + "kv_proj"));
  Tensor banned = windows.absent.view({n, 1, 1, events});
  if (c.receptive_ms > 0) {
    const Tensor nominal =
        torch::arange(c.latents,
                      torch::TensorOptions().dtype(torch::kFloat64).device(params_.device())) *
        (static_cast<double>(window_bins_) / c.latents);
    const Tensor far =
        (windows.bin.to(torch::kFloat64).view({n, 1, 1, events}) - nominal.view({1, 1, -1, 1}))
            .abs() > c.receptive_ms / c.bin_ms;
    banned = torch::logical_or(banned, far);
  }
  const Tensor seen = attention(heads(q.unsqueeze(0)), heads(kv.narrow(-1, 0, c.dim)),
                                heads(kv.narrow(-1, c.dim, c.dim)), banned);
  return latents.unsqueeze(0) + project(join(seen), weight(cross + "out_proj"));
}

Tensor WindowNet::run_block(int index, const Tensor& z) const {
  const std::string block = fmt::format("encoder.self_attn_blocks.{}.", index);
  const auto weight = [&](const char* name) { return params_.at(block + name + ".weight"); };
  const auto qkv = project(norm(z, block + "norm_attn"), weight("qkv_proj")).chunk(3, -1);
  const Tensor self = attention(heads(qkv[0]), heads(qkv[1]), heads(qkv[2]), {});
  const Tensor after = z + project(join(self), weight("out_proj"));
  const Tensor hidden = torch::gelu(project(norm(after, block + "norm_mlp"), weight("mlp.0")));
  return after + project(hidden, weight("mlp.2"));
}

Tensor WindowNet::answer(const Tensor& z) const {
  const auto weight = [&](const char* name) {
    return params_.at(std::string("behavior_head.") + name + ".weight");
  };
  const Tensor last = norm(norm(z, "encoder.final_norm"), "behavior_head.norm");
  const Tensor q = project(params_.at("behavior_head.query"), weight("q_proj"));
  const auto kv = project(last, weight("kv_proj")).chunk(2, -1);
  const Tensor pooled = attention(heads(q.unsqueeze(0)), heads(kv[0]), heads(kv[1]), {});
  return project(join(pooled), weight("out_proj")).squeeze(-1);
}

int WindowNet::stage_of(const std::string& tensor) const {
  const std::string block = "encoder.self_attn_blocks.";
  if (tensor.rfind(block, 0) == 0) return 1 + std::stoi(tensor.substr(block.size()));
  const bool last =
      tensor.rfind("behavior_head.", 0) == 0 || tensor.rfind("encoder.final_", 0) == 0;
  return last ? stages() - 1 : 0;
}

Tensor WindowNet::run_stage(int stage, const Tensor& before, const CropBatch& batch) const {
  const std::vector<std::int64_t> rows = scored_rows(batch);
  const auto count = static_cast<std::int64_t>(rows.size());
  const Tensor z = by_groups(count, [&](std::int64_t i, std::int64_t n) {
    if (stage == 0) return encode(gather(batch, {rows.begin() + i, rows.begin() + i + n}));
    const Tensor group = before.narrow(0, i, n);
    return stage + 1 < stages() ? run_block(stage - 1, group) : answer(group);
  });
  return stage + 1 < stages() ? z : in_their_rows(z, rows, batch);
}

Tensor WindowNet::forward(const CropBatch& batch) const {
  const std::vector<std::int64_t> rows = scored_rows(batch);
  const auto count = static_cast<std::int64_t>(rows.size());
  const Tensor answers = by_groups(count, [&](std::int64_t i, std::int64_t n) {
    Tensor z = encode(gather(batch, {rows.begin() + i, rows.begin() + i + n}));
    for (int block = 0; block < config_.layers; ++block) z = run_block(block, z);
    return answer(z);
  });
  return in_their_rows(answers, rows, batch);
}

}  // namespace cortex::train
