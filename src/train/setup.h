#pragma once

#include "model/weights.h"
#include "train/crops.h"
#include "train/trainer.h"

namespace cortex::train {

/// invalid_argument naming the first flag whose value makes no sense.
Result<void> check_options(const TrainOptions& options);

StepOptions step_options(const DataOptions& data);

/// How units of several recordings become one table; invalid_argument: another name.
Result<UnitsBy> units_by(const DataOptions& data);

/// The timeline that trains or scores `data`.
Result<Timeline> cut_timeline(const std::vector<Recording>& recordings, const DataOptions& data,
                              const std::string& splits, OtherTrials others);

/// The preset, overridden, with the timeline's units and outputs.
Result<ModelConfig> make_config(const TrainOptions& options, const Timeline& timeline);

/// What training starts from.
struct StartingPoint {
  ModelConfig config;
  std::map<std::string, Tensor> weights;
  std::vector<float> mean, std;      ///< of the target, [outputs]
  std::vector<std::string> learned;  ///< tensors that change; empty: all
};
/// Random weights of the preset, or those of `options.init` with rows for the timeline's units.
/// invalid_argument: the model cannot be gone on with on these recordings, naming what differs.
Result<StartingPoint> starting_point(const TrainOptions& options, const Timeline& timeline);

/// Options with the zeros that mean "by the kind of model" replaced.
TrainOptions resolve(const TrainOptions& options, const ModelConfig& config);

/// Text that is equal for two runs only if they compute the same.
std::string fingerprint(const TrainOptions& options, const ModelConfig& config,
                        const Timeline& timeline, const std::string& device);

/// Weights to start from, a function of `seed`: linears scaled by their fan-in, branches into the
/// residual stream scaled down by depth, the cross-attention's output zero.
std::map<std::string, Tensor> initial_weights(const ModelConfig& config, std::uint64_t seed);

}  // namespace cortex::train
