#pragma once

#include <cortex/result.h>

#include <map>
#include <string>

#include "train/optimizer.h"

namespace cortex::train {

/// All that an interrupted run needs to go on as if it had not been.
struct Checkpoint {
  std::int64_t iteration = 0;  ///< iterations done
  double elapsed_s = 0;
  double best_r2 = 0;
  std::int64_t best_iteration = -1;  ///< -1: none yet
  std::string fingerprint;           ///< of options and data; another run's is refused
  std::map<std::string, torch::Tensor> vectors;
};

/// Atomic: a reader, or a run that was killed, finds the old file or the new one.
Result<void> save_checkpoint(const std::string& path, const Checkpoint& checkpoint);
/// not_found, or corrupt_data naming what is wrong.
Result<Checkpoint> load_checkpoint(const std::string& path, const std::string& fingerprint);

}  // namespace cortex::train
