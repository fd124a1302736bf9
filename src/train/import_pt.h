#pragma once

#include <cortex/result.h>

#include <string>
#include <vector>

namespace cortex::train {

struct ImportReport {
  std::string model;
  std::int64_t parameters = 0;
  std::vector<std::string> ignored;  ///< entries of the checkpoint that are no weights
};

/// Turns a state dict of the published implementation (torch.save's zip format; at the top level or
/// under "model_state_dict", "model" or "state_dict") into a model file. `config` is its
/// config.json; empty: the one beside `pt`. not_found, corrupt_data, or unsupported for the format
/// that torch.save wrote before version 1.6.
Result<ImportReport> import_pt(const std::string& pt, const std::string& config,
                               const std::string& out);

}  // namespace cortex::train
