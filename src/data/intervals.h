#pragma once

#include <vector>

#include "data/recording.h"

namespace cortex {

/// Union of all units' observed intervals, ascending and disjoint.
std::vector<Interval> observed_union(const Recording& recording);

/// First and last moment of the session: of `observed` (the union above), else of the trials, else
/// of anything. Infinite bounds if there is nothing.
Interval session_span(const Recording& recording, const std::vector<Interval>& observed);

/// 0 for fewer than two times.
double median_period(const std::vector<double>& times);

}  // namespace cortex
