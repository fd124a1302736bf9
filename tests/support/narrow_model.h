#pragma once

#include <map>
#include <string>
#include <utility>

#include "model/weights.h"
#include "quant/quantize_linear.h"

namespace cortex::testing {

/// `file` with every linear in another precision: rounded to bf16, or int8 with a scale a row.
inline ModelFile in_precision(ModelFile file, DType precision) {
  if (precision == DType::f32) return file;
  std::map<std::string, Tensor> scales;
  for (const TensorSpec& spec : tensor_specs(file.config)) {
    if (!spec.linear) continue;
    Tensor& weight = file.tensors.at(spec.name);
    if (precision == DType::bf16) {
      weight = to_bfloat16(weight);
      continue;
    }
    QuantizedLinear q = quantize_rows(weight, Clipping::absmax);
    weight = std::move(q.weight);
    scales.emplace(spec.name + ".scale", std::move(q.scale));
  }
  for (auto& [name, scale] : scales) file.tensors.emplace(name, std::move(scale));
  return file;
}

}  // namespace cortex::testing
