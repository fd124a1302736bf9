#pragma once

#include <cortex/result.h>

#include <map>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "model/config.h"
#include "tensor/tensor.h"

namespace cortex {

/// A model file: its configuration and every tensor it needs, checked.
struct ModelFile {
  ModelConfig config;
  std::map<std::string, Tensor> tensors;
  std::string digest;        ///< 16 hex digits over the file's bytes
  bool is_identity = false;  ///< no decoder at all, see identity_model.h; never so from a file

  const Tensor& at(const std::string& name) const { return tensors.at(name); }
  /// A linear's weight with its scale, where it has one; `gain` names that of the RMS norm which
  /// always comes before it, or nothing.
  LinearTensor linear(const std::string& name, const std::string& gain = {}) const;
  /// Narrowest dtype of any linear: what the model is said to run in.
  DType precision() const;
  /// Weights and biases; neither scales nor the output's mean and std.
  std::int64_t parameter_count() const;
  /// Of the tensors as they are held, scales included.
  std::size_t bytes() const;
};

/// With tensors of its own.
ModelFile clone(const ModelFile& file);

/// "fp32", "bf16" or "int8": how a precision is named in answers and reports.
const char* precision_name(DType dtype);

/// Of an I8 linear `X`, the tensor `X.scale`.
std::string scale_name(const std::string& linear);

/// Name and shape of a tensor that a configuration asks for.
struct TensorSpec {
  std::string name;
  Shape shape;
  bool linear = false;  ///< a linear's weight, [out, in]: F32, BF16, or I8 with a scale
};
std::vector<TensorSpec> tensor_specs(const ModelConfig& config);
/// Pairs of tensors that such a model may carry beside what it needs.
std::vector<TensorSpec> optional_specs(const ModelConfig& config);

/// Reads and checks `path`. A linear stays F32, BF16 or I8, as the file has it; an I8 linear `X`
/// comes with `X.scale`, F32 [out], finite and positive. Other tensors are F32 or BF16 and are held
/// in float32. A missing, extra or misshapen tensor, one of a wrong dtype and a non-finite weight
/// are corrupt_data errors that name the tensor. Published weights are read with their own names,
/// from a directory's or file's sibling `config.json`.
Result<ModelFile> load_model(const std::string& path);
Result<ModelFile> parse_model(std::span<const std::byte> bytes, const std::string& name);
Result<void> save_model(const std::string& path, const ModelConfig& config,
                        const std::map<std::string, Tensor>& tensors);

/// Random weights, only ever on request (tests, benchmarks, the start of training): linears and
/// embeddings N(0, 0.02), gains 1, biases 0, output mean 0 and std 1. A function of `seed`.
ModelFile random_model(ModelConfig config, std::uint64_t seed);

}  // namespace cortex
