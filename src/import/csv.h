#pragma once

#include <cortex/result.h>

#include <string>
#include <string_view>
#include <vector>

#include "data/recording.h"

/// Comma-separated text with a line of column names; no quotes, no empty cells but where said, one
/// table a file. Errors (corrupt_data) name file, line and column.
namespace cortex::csv {

/// Columns `unit` (an integer id) and `time_s`, in any order: a spike a line, lines in any order.
/// Units are in the order of their ids.
Result<std::vector<Unit>> read_events(std::string_view text, const std::string& name);

/// `time_s`, strictly ascending, and a column a dimension, named NAME[UNIT] with one UNIT for all,
/// e.g. `time_s,x[mm/s],y[mm/s]`. An empty cell is NaN. The series is called `series`.
Result<BehaviorSeries> read_behavior(std::string_view text, const std::string& name,
                                     const std::string& series);

/// `start_s`, `stop_s`, optionally `split` (text) and any other columns of numbers; an empty cell
/// of those is NaN.
Result<std::vector<Trial>> read_trials(std::string_view text, const std::string& name);

}  // namespace cortex::csv
