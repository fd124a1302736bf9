#pragma once

#include <string>

#include "serve/serve_state.h"

namespace cortex {

/// The Prometheus text of everything in telemetry/catalog.h that is known now.
std::string metrics_page(const ServeState& state);

}  // namespace cortex
