#pragma once

#include <cortex/result.h>

#include <string>

#include "data/recording.h"

namespace cortex {

/// Share of trials for validation where a file has no split of its own.
inline constexpr double kDefaultValShare = 0.2;

/// Assigns trials to "train" and "val", and says in words how:
/// - empty: as the file says; where no trial has a split, as for 0.2;
/// - a fraction in (0, 1): that share of the trials, spread evenly over the session in time order.
///   A file without trials is cut into blocks of 10 s (at least ten blocks), each a trial, with 1 s
///   that belongs to none between neighbours;
/// - a column of the trials: 0 train, 1 val, 2 test, NaN none; `split` is the file's own.
/// The same recording always gets the same split. invalid_argument: a fraction out of range, a
/// column that is missing (listing those there are) or has other values (naming the row), less than
/// two trials to share out.
Result<std::string> assign_split(Recording& recording, const std::string& split);

}  // namespace cortex
