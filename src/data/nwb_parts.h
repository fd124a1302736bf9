#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <vector>

#include "data/hdf5_file.h"
#include "data/recording.h"

/// The tables of an NWB file, one reader each; `read_nwb` puts them together.
namespace cortex::nwb {

Result<std::vector<Unit>> read_units(const hdf5::File& file, std::int64_t electrodes);
Result<std::vector<Trial>> read_trials(const hdf5::File& file);
Result<std::vector<Electrode>> read_electrodes(const hdf5::File& file);
Result<std::vector<BehaviorSeries>> read_behavior(const hdf5::File& file);

/// The error if `column` is not one value a row.
template <class T>
Result<void> check_rows(const hdf5::File& file, const std::string& path,
                        const hdf5::Array<T>& column, std::size_t rows) {
  if (column.dims.size() != 1)
    return file.corrupt(path, "rank " + std::to_string(column.dims.size()) + ", expected 1");
  if (column.values.size() != rows)
    return file.corrupt(
        path, std::to_string(column.values.size()) + " rows, expected " + std::to_string(rows));
  return {};
}

}  // namespace cortex::nwb
