#pragma once

#include "load_report.h"

namespace cortex {

/// Runs a load and compares its answers, as the options say. Throws Exception.
LoadReport run_load(const LoadOptions& options);

}  // namespace cortex
