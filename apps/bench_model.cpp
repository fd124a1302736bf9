#include "bench_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "bench_work.h"
#include "kernels/cpu/cpu_ops.h"

namespace cortex {
namespace {

/// A row times 1 / scale, to the nearest of -127 .. 127.
std::pair<Tensor, Tensor> quantize_rows(const Tensor& weight) {
  const auto out = static_cast<std::size_t>(weight.size(0));
  const auto in = static_cast<std::size_t>(weight.size(1));
  Tensor rows(weight.shape(), DType::i8);
  Tensor scale({weight.size(0)});
  auto* to = reinterpret_cast<std::int8_t*>(rows.data());
  for (std::size_t o = 0; o < out; ++o) {
    const auto row = weight.f32().subspan(o * in, in);
    float largest = 0;
    for (const float w : row) largest = std::max(largest, std::abs(w));
    const float step = largest > 0 ? largest / 127 : 1.0f;
    scale.f32()[o] = step;
    for (std::size_t i = 0; i < in; ++i)
      to[o * in + i] = static_cast<std::int8_t>(std::lround(row[i] / step));
  }
  return {std::move(rows), std::move(scale)};
}

}  // namespace

std::unique_ptr<Ops> make_bench_ops(int threads, const std::string& isa) {
  return make_cpu_ops({.threads = threads, .isa = isa});
}

DType precision_of(const std::string& name) {
  if (name == "fp32") return DType::f32;
  if (name == "bf16") return DType::bf16;
  if (name == "int8") return DType::i8;
  throw Exception{{ErrorCode::invalid_argument,
                   fmt::format("no precision '{}'; there are fp32, bf16, int8", name),
                   "precision"}};
}

ModelFile with_precision(ModelFile model, DType precision) {
  if (precision == DType::f32) return model;
  for (const auto& [name, row_count, in, out] : forward_linears(model.config, 1)) {
    if (name == "head.weight") continue;
    Tensor& weight = model.tensors.at(name);
    if (precision == DType::bf16) {
      weight = to_bfloat16(weight);
      continue;
    }
    auto [rows, scale] = quantize_rows(weight);
    weight = std::move(rows);
    model.tensors.emplace(name + ".scale", std::move(scale));
  }
  return model;
}

ModelFile random_preset(const std::string& preset, DType precision, int units, std::uint64_t seed) {
  ModelConfig config = preset_config(preset).value_or_throw();
  if (config.kind == ModelKind::stream)
    for (int i = 0; i < units; ++i)
      config.units.push_back(
          {.id = fmt::format("unit-{}", i), .session = "random", .electrode = {}, .rate_hz = 0});
  return with_precision(random_model(std::move(config), seed), precision);
}

}  // namespace cortex
