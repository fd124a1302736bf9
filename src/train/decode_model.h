#pragma once

#include "data/trial_scores.h"
#include "model/weights.h"
#include "train/evaluate.h"
#include "train/trainer.h"

namespace cortex::train {

/// A model file and the recordings cut as it wants them. `ignore_other_units`: see DecodeChoices.
struct OpenedModel {
  ModelFile model;
  bool baseline = false;  ///< a network of baseline_nets.h, which only this library runs
  Timeline timeline;
  DataOptions data;  ///< bins, steps and target offset of the model where it has them
};
Result<OpenedModel> open_for(const std::string& path, const DataOptions& data,
                             const std::string& split, const std::vector<Recording>& recordings,
                             bool ignore_other_units = false);

/// How the units of recordings are matched with a model's.
UnitsBy units_by(const ModelConfig& config);

struct DecodeChoices {
  bool reset_each_trial = false;
  /// Share of the units whose spikes reach the decoder, drawn by `units_seed`; the others fall
  /// silent, as when electrodes fail.
  double units_kept = 1;
  std::uint64_t units_seed = 1;
  /// Units that the model does not know are not heard and those that the recordings lack are
  /// silent, as when a model meets another day as it is; else either is an error.
  bool ignore_other_units = false;
  std::string device = "auto";
};

struct DecodedModel {
  ModelConfig config;
  std::string digest;
  Timeline timeline;  ///< what was decoded
  Decoded decoded;
  std::vector<TrialScore> trials;
  std::int64_t unobserved = 0;  ///< scored steps during which nothing was recorded
};
/// Any model that `train`, `ridge` or `kalman` writes, causally, over every scored step of `split`.
Result<DecodedModel> decode_model(const std::string& path, const DataOptions& data,
                                  const std::string& split,
                                  const std::vector<Recording>& recordings,
                                  const DecodeChoices& choices);

/// The served decoder of a linear model, over every step of the timeline.
Decoded decode_linear(const ModelFile& model, const Timeline& timeline);

/// `output.mean` or `output.std` of a model; `otherwise` where it has none.
std::vector<float> output_constant(const ModelFile& model, const char* name, float otherwise);

}  // namespace cortex::train
