#include "train/stream_net.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "model/rotary.h"
#include "train/ops.h"

namespace cortex::train {
namespace {

using torch::Tensor;

struct Phases {
  Tensor cosines, sines;  // [times, head_dim / 2]
};

Phases phases(const Rotary& rotary, const std::vector<double>& times_ms, const Tensor& like) {
  const auto n = static_cast<std::int64_t>(times_ms.size());
  const std::int64_t half = rotary.pairs();
  Tensor angle = torch::empty({n, half}, torch::kFloat64);
  auto* out = angle.data_ptr<double>();
  for (const double t : times_ms)
    for (const double period : rotary.periods_ms())
      *out++ = 2 * std::numbers::pi * (std::fmod(t, period) / period);
  const auto to = [&](const Tensor& x) {
    return x.to(like.scalar_type()).to(like.device()).contiguous();
  };
  return {to(angle.cos()), to(angle.sin())};
}

Tensor upload(const std::vector<std::int64_t>& values, torch::Device device) {
  return torch::tensor(values, torch::kInt64).to(device);
}

std::vector<double> step_ends(const ModelConfig& c, std::int64_t steps, std::int64_t first) {
  std::vector<double> t;
  for (std::int64_t s = 0; s < steps; ++s)
    t.push_back(static_cast<double>(first + s + 1) * c.step_ms);
  return t;
}

/// Steps at the start of every crop that nobody scores.
std::int64_t unscored_steps(const CropBatch& batch) {
  std::int64_t least = batch.mask.empty() ? 0 : batch.steps - 1;
  for (std::size_t row = 0; row < batch.mask.size(); ++row)
    if (batch.mask[row]) least = std::min(least, static_cast<std::int64_t>(row) % batch.steps);
  return least;
}

Tensor rms_plain(const Tensor& x, const Tensor& gain) {
  return x * torch::rsqrt(x.pow(2).mean(-1, true) + 1e-6) * gain;
}

Tensor turn(const Tensor& x, const Tensor& cosines, const Tensor& sines) {
  const auto halves = x.chunk(2, -1);
  return torch::cat(
      {halves[0] * cosines - halves[1] * sines, halves[1] * cosines + halves[0] * sines}, -1);
}

}  // namespace

Tensor count_matrix(const CropBatch& batch, std::int64_t units, const Tensor& like) {
  Tensor counts = torch::zeros({batch.rows(), units}, torch::kFloat32);
  auto* at = counts.data_ptr<float>();
  for (std::int64_t row = 0; row < batch.rows(); ++row)
    for (std::int64_t e = batch.indptr[row]; e < batch.indptr[row + 1]; ++e)
      at[row * units + batch.events[e].unit] += static_cast<float>(batch.events[e].value);
  return counts.to(like.scalar_type()).to(like.device());
}

PairLists make_pairs(const ModelConfig& config, const CropBatch& batch) {
  const std::int64_t per_step = config.bins_per_step();
  const std::int64_t buckets = config.value_buckets;
  const auto tokens = static_cast<std::int64_t>(config.units.size()) * buckets;
  PairLists out;
  out.indptr.push_back(0);
  const auto guess = batch.events.size() * static_cast<std::size_t>(config.receptive_steps);
  for (auto* list : {&out.step, &out.slot, &out.token}) list->reserve(guess);
  for (std::int64_t row = 0; row < batch.rows(); ++row) {
    const std::int64_t s = row % batch.steps;
    const std::int64_t reach = std::min<std::int64_t>(config.receptive_steps - 1, s);
    const std::int64_t last_bin = (s + 1) * per_step - 1;
    for (std::int64_t e = batch.indptr[row - reach]; e < batch.indptr[row + 1]; ++e) {
      const Event& event = batch.events[e];
      const std::int64_t token =
          event.unit * buckets + std::min<std::int64_t>(event.value, buckets - 1);
      out.step.push_back(row);
      out.slot.push_back((last_bin - event.bin) * tokens + token);
      out.token.push_back(token);
    }
    out.indptr.push_back(static_cast<std::int64_t>(out.step.size()));
  }
  return out;
}

StreamNet::StreamNet(const ModelConfig& config, const Parameters& params, StreamInputs inputs)
    : config_(config), params_(params), inputs_(inputs) {}

std::int64_t StreamNet::context_steps() const {
  return config_.layers * (config_.window_steps - 1) + config_.receptive_steps - 1;
}

Tensor StreamNet::embed(const CropBatch& batch) const {
  const ModelConfig& c = config_;
  const Tensor& latents = params_.at("latents");
  Tensor z = latents.unsqueeze(0).expand({batch.rows(), c.latents, c.dim});
  if (inputs_.counts) {
    const auto units = static_cast<std::int64_t>(c.units.size());
    z = z + product(count_matrix(batch, units, latents), params_.at("tokenizer.additive"))
                .view({batch.rows(), c.latents, c.dim});
  }
  return inputs_.events ? z + project(cross_attend(batch), params_.at("cross.out")) : z;
}

Tensor StreamNet::cross_attend(const CropBatch& batch) const {
  const ModelConfig& c = config_;
  const Tensor& latents = params_.at("latents");
  const std::int64_t r = c.latents;
  const auto units = static_cast<std::int64_t>(c.units.size());

  const Tensor sum = (params_.at("tokenizer.unit_emb").unsqueeze(1) +
                      params_.at("tokenizer.value_emb").unsqueeze(0))
                         .view({units * c.value_buckets, c.dim});
  const Tensor tokens = rms_norm(sum, params_.at("cross.norm_kv"));
  const Tensor kv = project(tokens, params_.at("cross.kv"));
  const Tensor keys = kv.narrow(1, 0, c.dim).view({-1, c.heads, c.head_dim});
  const Tensor values = kv.narrow(1, c.dim, c.dim);

  const Tensor q = project(rms_norm(latents, params_.at("cross.norm_q")), params_.at("cross.q")) *
                   (1.0 / std::sqrt(static_cast<double>(c.head_dim)));
  const Tensor q_heads = q.view({r, c.heads, c.head_dim});
  const Tensor null_scores =
      (q_heads * params_.at("cross.null_k").view({1, c.heads, c.head_dim})).sum(-1).view({-1});
  std::vector<double> offsets;
  for (int o = 0; o < c.receptive_steps * c.bins_per_step(); ++o)
    offsets.push_back((o + 0.5) * c.bin_ms);
  const auto n = static_cast<std::int64_t>(offsets.size());
  const Rotary rotary(c.head_dim, c.cross_period_min_ms, c.cross_period_max_ms);
  const Phases ph = phases(rotary, offsets, latents);
  // R(t_s) q . R(t_e) k = R(t_s - t_e) q . k: only the offset matters.
  const Tensor turned =
      rotate(q_heads.view({1, 1, r * c.heads, c.head_dim}).expand({1, n, r * c.heads, c.head_dim}),
             ph.cosines, ph.sines)
          .view({n, r, c.heads, c.head_dim});
  // [heads, tokens, head_dim] x [heads, head_dim, offsets * R]
  const Tensor table = product(keys.permute({1, 0, 2}),
                               turned.permute({2, 3, 0, 1}).reshape({c.heads, c.head_dim, n * r}));
  const Tensor scores = table.view({c.heads, -1, n, r})
                            .permute({2, 1, 3, 0})
                            .reshape({n * units * c.value_buckets, r * c.heads});

  const PairLists lists = make_pairs(c, batch);
  const EventPairs pairs{torch::tensor(lists.indptr, torch::kInt64),
                         upload(lists.step, latents.device()), upload(lists.slot, latents.device()),
                         upload(lists.token, latents.device())};
  return event_attention(scores, null_scores, values, params_.at("cross.null_v"), pairs, c.heads);
}

Tensor StreamNet::attend(const Tensor& queries, const Tensor& keys, const Tensor& values,
                         std::int64_t steps) const {
  // All [crops, heads, steps * R, head_dim]; queries may be of the last steps only.
  const std::int64_t w = config_.window_steps;
  const std::int64_t r = config_.latents;
  const double scale = 1.0 / std::sqrt(static_cast<double>(config_.head_dim));
  const auto options = torch::TensorOptions().device(queries.device());
  const auto banned = [&](std::int64_t rows, std::int64_t columns, std::int64_t shift) {
    // Row step i sees column step j - shift when 0 <= i - (j - shift) < W.
    const Tensor i = torch::arange(rows * r, options).div(r, "floor").unsqueeze(1);
    const Tensor j = torch::arange(columns * r, options).div(r, "floor").unsqueeze(0) - shift;
    return torch::logical_or(j > i, i - j >= w);
  };
  const auto softmax = [&](const Tensor& scores, const Tensor& mask) {
    return torch::softmax(scores.masked_fill(mask, -std::numeric_limits<float>::infinity()), -1);
  };
  if (steps <= 2 * w || queries.size(2) != keys.size(2)) {
    const Tensor scores = product(queries * scale, keys.transpose(-2, -1));
    const Tensor mask = banned(steps, steps, 0);
    const std::int64_t rows = queries.size(2);
    return product(softmax(scores, mask.narrow(0, steps * r - rows, rows)), values);
  }
  // Blocks of W steps: each sees itself and the block before it.
  const std::int64_t blocks = (steps + w - 1) / w;
  const std::int64_t tail = (blocks * w - steps) * r;
  const auto sizes = queries.sizes();
  const auto fold = [&](const Tensor& x, std::int64_t front) {
    return torch::constant_pad_nd(x, {0, 0, front, tail})
        .view({sizes[0], sizes[1], -1, w * r, sizes[3]});
  };
  const auto pairwise = [&](const Tensor& x) {
    const Tensor f = fold(x, w * r);
    return torch::cat({f.narrow(2, 0, blocks), f.narrow(2, 1, blocks)}, 3);
  };
  Tensor mask = banned(w, 2 * w, w).unsqueeze(0).repeat({blocks, 1, 1});
  mask[0].narrow(1, 0, w * r).fill_(true);
  const Tensor scores = product(fold(queries * scale, 0), pairwise(keys).transpose(-2, -1));
  return product(softmax(scores, mask), pairwise(values))
      .reshape({sizes[0], sizes[1], -1, sizes[3]})
      .narrow(2, 0, steps * r);
}

std::int64_t StreamNet::skipped(const CropBatch& batch) const {
  return batch.steps <= 2 * config_.window_steps ? unscored_steps(batch) : 0;
}

int StreamNet::stage_of(const std::string& tensor) const {
  if (tensor.rfind("blocks.", 0) == 0) return 1 + std::stoi(tensor.substr(7));
  return tensor.rfind("head.", 0) == 0 || tensor == "final_norm" ? stages() - 1 : 0;
}

Tensor StreamNet::run_stage(int stage, const Tensor& before, const CropBatch& batch) const {
  if (stage == 0)
    return embed(batch).view({batch.crops, batch.steps * config_.latents, config_.dim});
  return stage + 1 < stages() ? run_block(stage - 1, before, batch) : answer(before, batch);
}

Tensor StreamNet::run_block(int index, const Tensor& z, const CropBatch& batch) const {
  const ModelConfig& c = config_;
  const std::int64_t rows = batch.steps * c.latents;
  const Rotary rotary(c.head_dim, c.block_period_min_ms, c.block_period_max_ms);
  Phases ph = phases(rotary, step_ends(c, batch.steps, 0), z);
  if (c.latents > 1) {
    ph.cosines = ph.cosines.repeat_interleave(c.latents, 0);
    ph.sines = ph.sines.repeat_interleave(c.latents, 0);
  }
  // The last block's answers are needed from the first scored step on; its keys everywhere.
  const std::int64_t queries =
      index + 1 == c.layers ? (batch.steps - skipped(batch)) * c.latents : rows;
  const std::string block = fmt::format("blocks.{}.", index);
  const Tensor qkv =
      project(rms_norm(z, params_.at(block + "norm_attn")), params_.at(block + "qkv"));
  const Tensor qk =
      rotate(qkv.narrow(-1, 0, 2 * c.dim).view({batch.crops, rows, 2 * c.heads, c.head_dim}),
             ph.cosines, ph.sines);
  const auto heads = [](const Tensor& x) { return x.permute({0, 2, 1, 3}).contiguous(); };
  const Tensor v = qkv.narrow(-1, 2 * c.dim, c.dim).view({batch.crops, rows, c.heads, c.head_dim});
  const Tensor q = qk.narrow(2, 0, c.heads).narrow(1, rows - queries, queries);
  const Tensor seen = attend(heads(q), heads(qk.narrow(2, c.heads, c.heads)), heads(v), batch.steps)
                          .permute({0, 2, 1, 3})
                          .reshape({batch.crops, queries, c.dim});
  const Tensor after =
      z.narrow(1, rows - queries, queries) + project(seen, params_.at(block + "out"));
  const Tensor hidden = torch::gelu(
      project(rms_norm(after, params_.at(block + "norm_mlp")), params_.at(block + "up")));
  return after + project(hidden, params_.at(block + "down"));
}

Tensor StreamNet::normalised(const Tensor& z, const CropBatch& batch) const {
  return rms_norm(z, params_.at("final_norm"))
      .view({batch.crops, batch.steps - skipped(batch), config_.latents * config_.dim});
}

Tensor StreamNet::states(const CropBatch& batch) const {
  Tensor z;
  for (int stage = 0; stage + 1 < stages(); ++stage) z = run_stage(stage, z, batch);
  return normalised(z, batch);
}

Tensor StreamNet::answer(const Tensor& z, const CropBatch& batch) const {
  const std::int64_t skip = skipped(batch);
  const Tensor y =
      project(normalised(z, batch), params_.at("head.weight"), params_.at("head.bias"));
  return skip == 0 ? y : torch::constant_pad_nd(y, {0, 0, skip, 0});
}

Tensor StreamNet::forward(const CropBatch& batch) const {
  Tensor z;
  for (int stage = 0; stage < stages(); ++stage) z = run_stage(stage, z, batch);
  return z;
}

Tensor plain_stream_forward(const ModelConfig& c, const Parameters& params, const CropBatch& batch,
                            std::int64_t first_step) {
  const auto p = [&](const std::string& name) { return params.at(name); };
  const Rotary cross(c.head_dim, c.cross_period_min_ms, c.cross_period_max_ms);
  const Rotary block(c.head_dim, c.block_period_min_ms, c.block_period_max_ms);
  const double scale = 1.0 / std::sqrt(static_cast<double>(c.head_dim));
  const Tensor latents = p("latents");
  const Tensor q = torch::matmul(rms_plain(latents, p("cross.norm_q")), p("cross.q").t())
                       .view({c.latents, c.heads, c.head_dim});
  const Tensor null_k = p("cross.null_k").view({c.heads, c.head_dim});
  const std::vector<double> ends = step_ends(c, batch.steps, first_step);
  const double origin_ms = static_cast<double>(first_step) * c.step_ms;

  std::vector<Tensor> base;
  for (std::int64_t s = 0; s < batch.steps; ++s) {
    Tensor z = latents;
    for (std::int64_t e = batch.indptr[s]; e < batch.indptr[s + 1]; ++e)
      z = z + batch.events[e].value *
                  p("tokenizer.additive")[batch.events[e].unit].view({c.latents, c.dim});
    const Phases at_end = phases(cross, {ends[s]}, latents);
    const Tensor turned_q = turn(q, at_end.cosines, at_end.sines);
    // [R, heads] each; the null key comes first.
    std::vector<Tensor> scores = {(q * null_k).sum(-1) * scale};
    std::vector<Tensor> values = {p("cross.null_v").view({c.heads, c.head_dim})};
    const std::int64_t from = std::max<std::int64_t>(0, s - c.receptive_steps + 1);
    for (std::int64_t e = batch.indptr[from]; e < batch.indptr[s + 1]; ++e) {
      const Event& event = batch.events[e];
      const Tensor token =
          rms_plain(p("tokenizer.unit_emb")[event.unit] +
                        p("tokenizer.value_emb")[std::min(event.value, c.value_buckets - 1)],
                    p("cross.norm_kv"));
      const Tensor kv = torch::mv(p("cross.kv"), token);
      const double t = origin_ms + (static_cast<double>(event.bin) + 0.5) * c.bin_ms;
      const Phases at_event = phases(cross, {t}, latents);
      const Tensor k = turn(kv.narrow(0, 0, c.dim).view({c.heads, c.head_dim}), at_event.cosines,
                            at_event.sines);
      scores.push_back((turned_q * k).sum(-1) * scale);
      values.push_back(kv.narrow(0, c.dim, c.dim).view({c.heads, c.head_dim}));
    }
    const Tensor weights = torch::softmax(torch::stack(scores), 0);  // [keys, R, heads]
    const Tensor seen = (weights.unsqueeze(-1) * torch::stack(values).unsqueeze(1)).sum(0);
    base.push_back(z + torch::matmul(seen.reshape({c.latents, c.dim}), p("cross.out").t()));
  }
  Tensor z = torch::stack(base);  // [steps, R, D]
  const Phases ph = phases(block, ends, latents);
  const Tensor cosines = ph.cosines.view({batch.steps, 1, 1, -1});
  const Tensor sines = ph.sines.view({batch.steps, 1, 1, -1});
  for (int i = 0; i < c.layers; ++i) {
    const std::string b = fmt::format("blocks.{}.", i);
    const Tensor qkv = torch::matmul(rms_plain(z, p(b + "norm_attn")), p(b + "qkv").t())
                           .view({batch.steps, c.latents, 3, c.heads, c.head_dim});
    const Tensor queries = turn(qkv.select(2, 0), cosines, sines);
    const Tensor keys = turn(qkv.select(2, 1), cosines, sines);
    const Tensor v = qkv.select(2, 2);
    std::vector<Tensor> seen;
    for (std::int64_t s = 0; s < batch.steps; ++s) {
      const std::int64_t from = std::max<std::int64_t>(0, s - c.window_steps + 1);
      const Tensor k_in = keys.narrow(0, from, s + 1 - from).reshape({-1, c.heads, c.head_dim});
      const Tensor v_in = v.narrow(0, from, s + 1 - from).reshape({-1, c.heads, c.head_dim});
      const Tensor w =
          torch::softmax(torch::einsum("rhd,khd->rhk", {queries[s], k_in}) * scale, -1);
      seen.push_back(torch::einsum("rhk,khd->rhd", {w, v_in}).reshape({c.latents, c.dim}));
    }
    z = z + torch::matmul(torch::stack(seen), p(b + "out").t());
    const Tensor up = torch::matmul(rms_plain(z, p(b + "norm_mlp")), p(b + "up").t());
    z = z + torch::matmul(torch::gelu(up), p(b + "down").t());
  }
  const Tensor last = rms_plain(z, p("final_norm")).view({batch.steps, c.latents * c.dim});
  return torch::matmul(last, p("head.weight").t()) + p("head.bias");
}

}  // namespace cortex::train
