#pragma once

#include <torch/torch.h>

#include "train/decode_model.h"
#include "train/timeline.h"

/// What ridge and Kalman share: rows of a regression, and the way to a servable model.
namespace cortex::train {

constexpr int kInnerFolds = 5;
enum class Which { all, inner_fit, inner_score };
/// Scored steps of every trial, of those outside inner fold `fold`, or of those in it. Trials are
/// dealt to the inner folds in turn. A setting is chosen on them, so that none is chosen on the
/// trials that are scored in the end.
bool in_split(const TimelinePart& part, std::int64_t step, Which which, int fold = 0);

/// `x` += penalty on the diagonal; solves x w = y for w in float64.
torch::Tensor solve_ridge(const torch::Tensor& xx, const torch::Tensor& xy,
                          const torch::Tensor& penalty);

/// A linear model's configuration: units and outputs of the timeline, steps of `data`.
ModelConfig linear_config(ModelKind kind, const Timeline& timeline, const DataOptions& data);

/// With output.mean and output.std given, all other tensors float32 of their specs' shapes.
ModelFile linear_file(ModelConfig config, std::map<std::string, Tensor> tensors);

/// {"revision":...} with the data's digest and what was chosen, for training_json.
std::string linear_record(const Timeline& timeline, const DataOptions& data,
                          const std::string& chosen);

}  // namespace cortex::train
