#pragma once

#include <cortex/result.h>

#include <string>

#include "data/recording.h"

namespace cortex {

/// Leaves the units that fit every term of `filter`, comma separated: `all`, `held-in`, `held-out`,
/// `rate>=2` and `rate<=50` (spikes/s over the unit's observed time, or the session),
/// `id=3|7|10-20`, `location=M1|PMd`, `group=array` (of the unit's electrode). invalid_argument
/// names a term that is none of these, or a filter that leaves nothing.
Result<void> keep_units(Recording& recording, const std::string& filter);

}  // namespace cortex
