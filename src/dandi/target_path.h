#pragma once

#include <cortex/result.h>

#include <string>

namespace cortex::dandi {

/// Where an archive's asset goes below the folder `out`. The archive is not trusted with paths:
/// one that is empty, absolute or too long, has an empty, '.' or '..' component, a backslash or a
/// control character, or leads through a link out of the folder, is invalid_argument naming it.
Result<std::string> target_path(const std::string& out, const std::string& asset_path);

}  // namespace cortex::dandi
