#include "bench_model.h"

#include <fmt/format.h>

#include <utility>

#include "bench_work.h"
#include "kernels/cpu/cpu_ops.h"
#include "quant/quantize_linear.h"

namespace cortex {
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
    QuantizedLinear q = quantize_rows(weight, Clipping::absmax);
    weight = std::move(q.weight);
    model.tensors.emplace(name + ".scale", std::move(q.scale));
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
