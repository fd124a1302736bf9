#include "train/network.h"

#include "train/stream_net.h"
#include "train/window_net.h"

namespace cortex::train {

std::unique_ptr<Network> make_network(const ModelConfig& config, const ParameterSet& params,
                                      double step_ms) {
  if (config.kind == ModelKind::stream) return std::make_unique<StreamNet>(config, params);
  return std::make_unique<WindowNet>(config, params, step_ms);
}

}  // namespace cortex::train
