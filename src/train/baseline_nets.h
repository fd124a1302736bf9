#pragma once

#include "model/weights.h"
#include "train/network.h"

/// Networks that a decoder is compared with, trained by the same trainer on the same crops:
///
/// `gru`          two layers of 256 over the counts of each step
/// `transformer`  causal, over the counts of each step: the stream decoder without its events
/// `possm`        after POSSM (Ryoo et al. 2025): a latent attends to the step's events, a GRU
///                carries the rest
///
/// They are not served: their files hold `cortex.baseline` instead of `cortex.config`.
namespace cortex::train {

const std::vector<std::string>& baseline_names();
bool is_baseline(const std::string& preset);

/// A preset of model/config.h or one of the above; not_found lists both.
Result<ModelConfig> find_preset(const std::string& name);

/// What is trained of `config`, and its constants `output.mean` and `output.std`.
std::vector<TensorSpec> parameter_specs(const ModelConfig& config);

/// Null: `config` is no baseline.
std::unique_ptr<Network> make_baseline(const ModelConfig& config, const Parameters& params);

Result<void> save_baseline(const std::string& path, const ModelConfig& config,
                           const std::map<std::string, Tensor>& tensors);
bool is_baseline_file(const std::string& path);
Result<ModelFile> load_baseline(const std::string& path);

}  // namespace cortex::train
