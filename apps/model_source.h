#pragma once

#include <cortex/events.h>

#include <CLI/App.hpp>
#include <random>
#include <string>
#include <vector>

#include "model/weights.h"

namespace cortex {

/// Flags of commands that run a model for its time alone: a file, or a preset with random weights.
struct ModelSource {
  std::string model;
  std::string preset;
  std::string precision;  ///< empty: the file's own, float32 for a preset
  int units = 96;         ///< of a stream preset, which knows none
};

void add_model_flags(CLI::App& command, ModelSource& source);

/// Throws Exception, or CLI::ValidationError where not exactly one of --model and --preset is
/// given.
ModelFile load(const ModelSource& source);

/// The model's preset or kind, and whether its weights are random.
std::string describe(const ModelSource& source, const ModelFile& file);

/// `count` random events in the bins [first_bin, first_bin + bins), in no order.
std::vector<Event> random_events(std::mt19937_64& random, const ModelConfig& config, int count,
                                 std::int64_t first_bin, int bins);

}  // namespace cortex
