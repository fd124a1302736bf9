#include <cmath>
#include <numbers>

#include "train/baseline_nets.h"
#include "train/setup.h"

namespace cortex::train {
namespace {

bool ends_with(const std::string& text, const std::string& end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Standard deviation to draw a tensor with; negative: ones.
double spread(const ModelConfig& c, const TensorSpec& spec) {
  const std::string& n = spec.name;
  const double fan_in = 1.0 / std::sqrt(static_cast<double>(spec.shape.back()));
  const double depth = 1.0 / std::sqrt(2.0 * c.layers);
  if (n == "output.mean" || ends_with(n, ".bias") || n.rfind("cross.null", 0) == 0) return 0;
  if (spec.shape.size() == 1) return -1;
  if (c.kind == ModelKind::stream) {
    // The additive path alone carries the input at first; attention joins as it proves useful.
    if (n == "cross.out") return 0;
    if (n == "tokenizer.additive") return 0.1;
    if (n.rfind("tokenizer.", 0) == 0) return 0.1;
    if (n == "latents") return 0.02;
    if (ends_with(n, ".out") || ends_with(n, ".down")) return fan_in * depth;
    return fan_in;
  }
  if (n.rfind("tokenizer.", 0) == 0) return 0.1;
  if (n == "encoder.latents" || n == "behavior_head.query") return 0.2;
  const bool branch = ends_with(n, "out_proj.weight") || ends_with(n, "mlp.2.weight");
  if (branch && n.rfind("encoder.self", 0) == 0) return fan_in * depth;
  return fan_in;
}

}  // namespace

std::map<std::string, Tensor> initial_weights(const ModelConfig& config, std::uint64_t seed) {
  std::map<std::string, Tensor> out;
  std::uint64_t stream = 0;
  for (const TensorSpec& spec : parameter_specs(config)) {
    Tensor t(spec.shape);
    CounterRandom random(seed, 0x5eed, ++stream);
    const double scale = spread(config, spec);
    for (float& v : t.f32()) {
      if (scale < 0) {
        v = 1;
      } else if (scale > 0) {
        // Box-Muller.
        const double radius = std::sqrt(-2 * std::log(1 - random.uniform()));
        v = static_cast<float>(scale * radius * std::cos(2 * std::numbers::pi * random.uniform()));
      }
    }
    out.emplace(spec.name, std::move(t));
  }
  return out;
}

}  // namespace cortex::train
