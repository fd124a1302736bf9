#pragma once

#include <cortex/result.h>

#include <map>
#include <string>

#include "train/optimizer.h"
#include "train/process_group.h"

namespace cortex::train {

/// All that an interrupted run needs to go on as if it had not been.
struct Checkpoint {
  std::int64_t iteration = 0;  ///< iterations done
  double elapsed_s = 0;
  double best_r2 = 0;
  std::int64_t best_iteration = -1;  ///< -1: none yet
  std::string fingerprint;           ///< of options and data; another run's is refused
  std::string record;                ///< what the run is made of, see run_record()
  std::map<std::string, torch::Tensor> vectors;
};

/// Atomic: a reader, or a run that was killed, finds the old file or the new one.
Result<void> save_checkpoint(const std::string& path, const Checkpoint& checkpoint);
/// not_found, or corrupt_data naming what is wrong.
Result<Checkpoint> load_checkpoint(const std::string& path, const std::string& fingerprint);

/// A checkpoint whose vectors lie in parts on the ranks of `group`, a file each, in a folder of the
/// run. It counts from the moment when all are written; older ones are then removed. Together.
Result<void> save_parts(const std::string& run_dir, const Checkpoint& part, ProcessGroup& group);
/// This rank's part of the latest, whatever number of ranks wrote it. `stage_lengths`: see Learner.
/// not_found: there is none.
Result<Checkpoint> load_parts(const std::string& run_dir, const std::string& fingerprint,
                              const std::vector<std::int64_t>& stage_lengths,
                              const ProcessGroup& group);
bool has_parts(const std::string& run_dir);

}  // namespace cortex::train
