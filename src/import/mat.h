#pragma once

#include <cortex/result.h>

#include <string>
#include <vector>

#include "data/recording.h"

namespace cortex {

/// A MATLAB file (v5, v7, v7.3) with these variables, each real and of full storage:
/// - `spikes`: a cell array, a vector of spike times in seconds a unit;
/// - `unit_ids` (optional): an integer a unit; else 1, 2, ...;
/// - `time` (s, ascending) with `hand_pos`, `hand_vel`, `cursor_pos`, `cursor_vel`, `finger_pos`
///   or `finger_vel` [times, dims], each with its unit in text, e.g. `hand_vel_unit` = 'mm/s';
/// - `trials` (optional): [trials, 2], start and stop in seconds, and `split` (optional), a number
///   a trial: 0 train, 1 val, 2 test.
/// Another variable is an error that names it, unless it is in `ignore`. Errors: corrupt_data (not
/// a MATLAB file, a variable of another class or shape), unsupported (a variable that is not
/// known; a build without libmatio).
Result<Recording> read_mat(const std::string& path, const std::vector<std::string>& ignore);

}  // namespace cortex
