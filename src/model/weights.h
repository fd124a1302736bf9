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
  std::string digest;  ///< 16 hex digits over the file's bytes

  const Tensor& at(const std::string& name) const { return tensors.at(name); }
  /// A linear's weight with its scale, where it has one.
  LinearTensor linear(const std::string& name) const;
  /// Narrowest dtype of any linear: what the model is said to run in.
  DType precision() const;
  std::int64_t parameter_count() const;
};

/// Name and shape of a tensor that a configuration asks for.
struct TensorSpec {
  std::string name;
  Shape shape;
};
std::vector<TensorSpec> tensor_specs(const ModelConfig& config);

/// Reads and checks `path`. A missing, extra or misshapen tensor and a non-finite weight are
/// corrupt_data errors that name the tensor. Published weights are read with their own names, from
/// a directory's or file's sibling `config.json`.
Result<ModelFile> load_model(const std::string& path);
Result<ModelFile> parse_model(std::span<const std::byte> bytes, const std::string& name);
Result<void> save_model(const std::string& path, const ModelConfig& config,
                        const std::map<std::string, Tensor>& tensors);

/// Random weights, only ever on request (tests, benchmarks, the start of training): linears and
/// embeddings N(0, 0.02), gains 1, biases 0, output mean 0 and std 1. A function of `seed`.
ModelFile random_model(ModelConfig config, std::uint64_t seed);

}  // namespace cortex
