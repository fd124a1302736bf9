#include "support/stream_oracle.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numbers>
#include <string>

namespace cortex::testing {
namespace {

using Vec = std::vector<double>;
using Rows = std::vector<Vec>;

Vec row(const Tensor& t, std::int64_t r, std::int64_t width) {
  const auto v = t.f32();
  return {v.begin() + r * width, v.begin() + (r + 1) * width};
}
Vec flat(const Tensor& t) { return {t.f32().begin(), t.f32().end()}; }

Vec rmsnorm(const Vec& x, const Vec& gain) {
  double square = 0;
  for (const double v : x) square += v * v;
  const double rms = std::sqrt(square / static_cast<double>(x.size()) + 1e-6);
  Vec y;
  for (std::size_t i = 0; i < x.size(); ++i) y.push_back(x[i] / rms * gain[i]);
  return y;
}

Vec linear(const Tensor& weight, const Vec& x) {
  const std::int64_t out = weight.size(0);
  const std::int64_t in = weight.size(1);
  Vec y;
  for (std::int64_t o = 0; o < out; ++o) {
    const Vec w = row(weight, o, in);
    double sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i) sum += w[i] * x[i];
    y.push_back(sum);
  }
  return y;
}

void add(Vec& to, const Vec& from) {
  for (std::size_t i = 0; i < to.size(); ++i) to[i] += from[i];
}

Vec slice(const Vec& x, int begin, int n) { return {x.begin() + begin, x.begin() + begin + n}; }

/// Rotates each head of x by the phases of time t.
Vec rope(const Vec& x, double t_ms, int head_dim, double min_ms, double max_ms) {
  Vec y = x;
  const int half = head_dim / 2;
  for (std::size_t h = 0; h < x.size() / static_cast<std::size_t>(head_dim); ++h) {
    for (int i = 0; i < half; ++i) {
      const double period =
          half == 1 ? min_ms
                    : min_ms * std::pow(max_ms / min_ms, static_cast<double>(i) / (half - 1));
      const double angle = 2 * std::numbers::pi * std::fmod(t_ms, period) / period;
      const std::size_t a = h * static_cast<std::size_t>(head_dim) + static_cast<std::size_t>(i);
      const std::size_t b = a + static_cast<std::size_t>(half);
      y[a] = x[a] * std::cos(angle) - x[b] * std::sin(angle);
      y[b] = x[a] * std::sin(angle) + x[b] * std::cos(angle);
    }
  }
  return y;
}

/// Softmax attention of one query row over keys, head by head; `extra` scores come with the keys.
struct Keys {
  Rows k;
  Rows v;
};
Vec attend(const Vec& q, const Keys& keys, int heads, int head_dim, const Vec* null_scores,
           const Vec* null_v) {
  Vec out(q.size(), 0.0);
  for (int h = 0; h < heads; ++h) {
    const int at = h * head_dim;
    Vec scores;
    for (const Vec& k : keys.k) {
      double s = 0;
      for (int d = at; d < at + head_dim; ++d) s += q[d] * k[d];
      scores.push_back(s / std::sqrt(static_cast<double>(head_dim)));
    }
    if (null_scores) scores.push_back((*null_scores)[h]);
    if (scores.empty()) continue;
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (double& s : scores) sum += s = std::exp(s - top);
    for (std::size_t j = 0; j < scores.size(); ++j) {
      const Vec& v = j < keys.v.size() ? keys.v[j] : *null_v;
      for (int d = at; d < at + head_dim; ++d) out[d] += scores[j] / sum * v[d];
    }
  }
  return out;
}

}  // namespace

std::vector<std::vector<double>> run_oracle(const ModelFile& model, std::int64_t first_step,
                                            const std::vector<std::vector<Event>>& steps) {
  const ModelConfig& c = model.config;
  const int n = static_cast<int>(steps.size());
  const int R = c.latents;
  const auto t = [&](const std::string& name) -> const Tensor& { return model.at(name); };
  const auto end_ms = [&](int s) { return static_cast<double>(first_step + s + 1) * c.step_ms; };

  // Tokens of every step.
  std::vector<Keys> tokens(static_cast<std::size_t>(n));
  for (int s = 0; s < n; ++s) {
    for (const Event& e : steps[s]) {
      Vec x = row(t("tokenizer.unit_emb"), e.unit, c.dim);
      add(x, row(t("tokenizer.value_emb"), std::min(e.value, c.value_buckets - 1), c.dim));
      const Vec kv = linear(t("cross.kv"), rmsnorm(x, flat(t("cross.norm_kv"))));
      tokens[s].k.push_back(rope(slice(kv, 0, c.dim), (static_cast<double>(e.bin) + 0.5) * c.bin_ms,
                                 c.head_dim, c.cross_period_min_ms, c.cross_period_max_ms));
      tokens[s].v.push_back(slice(kv, c.dim, c.dim));
    }
  }
  // z[s][r]
  std::vector<Rows> z(static_cast<std::size_t>(n));
  const Vec null_v = flat(t("cross.null_v"));
  const Vec null_k = flat(t("cross.null_k"));
  for (int s = 0; s < n; ++s) {
    Keys seen;
    for (int p = std::max(0, s - c.receptive_steps + 1); p <= s; ++p) {
      seen.k.insert(seen.k.end(), tokens[p].k.begin(), tokens[p].k.end());
      seen.v.insert(seen.v.end(), tokens[p].v.begin(), tokens[p].v.end());
    }
    for (int r = 0; r < R; ++r) {
      const Vec latent = row(t("latents"), r, c.dim);
      const Vec q = linear(t("cross.q"), rmsnorm(latent, flat(t("cross.norm_q"))));
      Vec null_scores;
      for (int h = 0; h < c.heads; ++h) {
        double sum = 0;
        for (int d = h * c.head_dim; d < (h + 1) * c.head_dim; ++d) sum += q[d] * null_k[d];
        null_scores.push_back(sum / std::sqrt(static_cast<double>(c.head_dim)));
      }
      Vec x = latent;
      for (const Event& e : steps[s]) {
        const Vec a = row(t("tokenizer.additive"), e.unit, static_cast<std::int64_t>(R) * c.dim);
        for (int d = 0; d < c.dim; ++d) x[d] += e.value * a[r * c.dim + d];
      }
      const Vec rotated =
          rope(q, end_ms(s), c.head_dim, c.cross_period_min_ms, c.cross_period_max_ms);
      add(x, linear(t("cross.out"),
                    attend(rotated, seen, c.heads, c.head_dim, &null_scores, &null_v)));
      z[s].push_back(x);
    }
  }
  for (int layer = 0; layer < c.layers; ++layer) {
    const std::string block = "blocks." + std::to_string(layer) + ".";
    std::vector<Keys> kv(static_cast<std::size_t>(n));
    std::vector<Rows> q(static_cast<std::size_t>(n));
    const auto turn = [&](const Vec& x, int s) {
      return rope(x, end_ms(s), c.head_dim, c.block_period_min_ms, c.block_period_max_ms);
    };
    for (int s = 0; s < n; ++s) {
      for (int r = 0; r < R; ++r) {
        const Vec qkv = linear(t(block + "qkv"), rmsnorm(z[s][r], flat(t(block + "norm_attn"))));
        q[s].push_back(turn(slice(qkv, 0, c.dim), s));
        kv[s].k.push_back(turn(slice(qkv, c.dim, c.dim), s));
        kv[s].v.push_back(slice(qkv, 2 * c.dim, c.dim));
      }
    }
    for (int s = 0; s < n; ++s) {
      Keys seen;
      for (int p = std::max(0, s - c.window_steps + 1); p <= s; ++p) {
        seen.k.insert(seen.k.end(), kv[p].k.begin(), kv[p].k.end());
        seen.v.insert(seen.v.end(), kv[p].v.begin(), kv[p].v.end());
      }
      for (int r = 0; r < R; ++r) {
        Vec& x = z[s][r];
        add(x,
            linear(t(block + "out"), attend(q[s][r], seen, c.heads, c.head_dim, nullptr, nullptr)));
        Vec hidden = linear(t(block + "up"), rmsnorm(x, flat(t(block + "norm_mlp"))));
        for (double& v : hidden) v = 0.5 * v * (1 + std::erf(v / std::numbers::sqrt2));
        add(x, linear(t(block + "down"), hidden));
      }
    }
  }
  std::vector<std::vector<double>> out;
  for (int s = 0; s < n; ++s) {
    Vec joined;
    for (int r = 0; r < R; ++r) {
      const Vec x = rmsnorm(z[s][r], flat(t("final_norm")));
      joined.insert(joined.end(), x.begin(), x.end());
    }
    Vec y = linear(t("head.weight"), joined);
    add(y, flat(t("head.bias")));
    for (std::size_t o = 0; o < y.size(); ++o)
      y[o] = y[o] * flat(t("output.std"))[o] + flat(t("output.mean"))[o];
    out.push_back(y);
  }
  return out;
}

ModelConfig tiny_stream_config() {
  ModelConfig c;
  c.kind = ModelKind::stream;
  c.preset = "tiny";
  c.dim = 16;
  c.layers = 2;
  c.heads = 2;
  c.head_dim = 8;
  c.latents = 2;
  c.window_steps = 6;
  c.receptive_steps = 3;
  c.bin_ms = 5;
  c.step_ms = 20;
  c.output_names = {"vel_x", "vel_y"};
  c.output_units = {"mm/s", "mm/s"};
  for (int u = 0; u < 9; ++u) c.units.push_back({"u" + std::to_string(u), "s", {}, 1.0});
  c.set_defaults();
  return c;
}

ModelFile lively_stream_model(ModelConfig config, std::uint64_t seed) {
  ModelFile model = random_model(std::move(config), seed);
  for (auto& [name, tensor] : model.tensors) {
    const bool gain = name.find("norm") != std::string::npos;
    // 0.02 times this gives rows of about unit length.
    const float factor = gain || name == "output.std"
                             ? 1.0f
                             : 50.0f / std::sqrt(static_cast<float>(tensor.shape().back()));
    int i = 0;
    for (float& v : tensor.f32()) {
      v *= factor;
      if (gain) v += 0.1f * static_cast<float>(i++ % 5 - 2);
    }
  }
  const auto mean = model.tensors.at("output.mean").f32();
  const auto std = model.tensors.at("output.std").f32();
  for (std::size_t i = 0; i < mean.size(); ++i) {
    mean[i] = 3.0f - static_cast<float>(i);
    std[i] = 20.0f + static_cast<float>(i);
  }
  return model;
}

}  // namespace cortex::testing
