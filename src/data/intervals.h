#pragma once

#include <vector>

#include "data/recording.h"

namespace cortex {

/// Union of all units' observed intervals, ascending and disjoint.
std::vector<Interval> observed_union(const Recording& recording);

/// First and last moment of the session: of `observed` (the union above), else of the trials, else
/// of anything. Infinite bounds if there is nothing.
Interval session_span(const Recording& recording, const std::vector<Interval>& observed);

/// What counts as recorded: the union, or the whole session where a file states no intervals; empty
/// where it holds nothing.
std::vector<Interval> observed_time(const Recording& recording);

/// A spike this close before an edge, in seconds, is at it: decimal times miss it by an ulp.
inline constexpr double kTimeEdge = 1e-9;

double total_length(const std::vector<Interval>& spans);
std::int64_t count_within(const std::vector<double>& spikes, const Interval& span);
/// Spikes a second of `spans`; 0 where they are empty.
double rate_within(const std::vector<double>& spikes, const std::vector<Interval>& spans);
/// The part of `spans` between two amounts of accumulated time.
std::vector<Interval> slice(const std::vector<Interval>& spans, double from, double to);

/// 0 for fewer than two times.
double median_period(const std::vector<double>& times);

}  // namespace cortex
