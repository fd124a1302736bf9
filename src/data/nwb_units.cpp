#include <fmt/format.h>

#include <cmath>
#include <string>
#include <unordered_set>
#include <utility>

#include "data/nwb_parts.h"

namespace cortex::nwb {
namespace {

/// Row ranges of a ragged column: row r owns [bounds[r], bounds[r + 1]) of the values.
Result<std::vector<std::int64_t>> read_index(const hdf5::File& file, const std::string& path,
                                             std::size_t rows, std::int64_t values) {
  const auto index = file.integers(path);
  if (!index) return index.error();
  if (auto ok = check_rows(file, path, *index, rows); !ok) return ok.error();
  std::vector<std::int64_t> bounds{0};
  bounds.reserve(rows + 1);
  for (std::size_t row = 0; row < rows; ++row) {
    const std::int64_t stop = index->values[row];
    if (stop < bounds.back())
      return file.corrupt(
          path, fmt::format("row {} is {}, less than {} before it", row, stop, bounds.back()));
    if (stop > values)
      return file.corrupt(
          path, fmt::format("row {} is {}, past the column's {} rows", row, stop, values));
    bounds.push_back(stop);
  }
  if (bounds.back() != values)
    return file.corrupt(
        path, fmt::format("ends at {}, but its column has {} rows", bounds.back(), values));
  return bounds;
}

Result<void> read_spikes(const hdf5::File& file, std::vector<Unit>& units) {
  const std::string path = "/units/spike_times";
  const auto spikes = file.reals(path);
  if (!spikes) return spikes.error();
  if (spikes->dims.size() != 1)
    return file.corrupt(path, fmt::format("rank {}, expected 1", spikes->dims.size()));
  const auto bounds = read_index(file, "/units/spike_times_index", units.size(),
                                 static_cast<std::int64_t>(spikes->values.size()));
  if (!bounds) return bounds.error();
  for (std::size_t u = 0; u < units.size(); ++u) {
    const auto first = static_cast<std::size_t>((*bounds)[u]);
    const auto last = static_cast<std::size_t>((*bounds)[u + 1]);
    for (std::size_t row = first; row < last; ++row) {
      const double time = spikes->values[row];
      if (!std::isfinite(time))
        return file.corrupt(
            path, fmt::format("row {} (unit {}) is {}, not a finite time", row, units[u].id, time));
      if (row > first && time < spikes->values[row - 1])
        return file.corrupt(path, fmt::format("row {} (unit {}) is {}, before {} in the row above",
                                              row, units[u].id, time, spikes->values[row - 1]));
    }
    units[u].spike_times_s.assign(spikes->values.begin() + static_cast<std::ptrdiff_t>(first),
                                  spikes->values.begin() + static_cast<std::ptrdiff_t>(last));
  }
  return {};
}

Result<void> read_observed(const hdf5::File& file, std::vector<Unit>& units) {
  const std::string path = "/units/obs_intervals";
  if (!file.exists(path)) return {};
  const auto spans = file.reals(path);
  if (!spans) return spans.error();
  if (spans->dims.size() != 2 || spans->dims[1] != 2)
    return file.corrupt(path, "expected [intervals, 2]");
  const auto bounds = read_index(file, "/units/obs_intervals_index", units.size(), spans->dims[0]);
  if (!bounds) return bounds.error();
  for (std::int64_t row = 0; row < spans->dims[0]; ++row) {
    const double start = spans->values[static_cast<std::size_t>(2 * row)];
    const double stop = spans->values[static_cast<std::size_t>(2 * row + 1)];
    if (!std::isfinite(start) || !std::isfinite(stop) || stop < start)
      return file.corrupt(path,
                          fmt::format("row {} is [{}, {}], not a span of time", row, start, stop));
  }
  for (std::size_t u = 0; u < units.size(); ++u) {
    const std::int64_t first = (*bounds)[u], last = (*bounds)[u + 1];
    units[u].observed.reserve(static_cast<std::size_t>(last - first));
    for (std::int64_t row = first; row < last; ++row)
      units[u].observed.push_back({spans->values[static_cast<std::size_t>(2 * row)],
                                   spans->values[static_cast<std::size_t>(2 * row + 1)]});
  }
  return {};
}

Result<void> read_electrode_rows(const hdf5::File& file, std::vector<Unit>& units,
                                 std::int64_t electrodes) {
  const std::string path = "/units/electrodes";
  if (!file.exists(path)) return {};
  const auto rows = file.integers(path);
  if (!rows) return rows.error();
  const bool ragged = file.exists("/units/electrodes_index");
  std::vector<std::int64_t> bounds;
  if (ragged) {
    if (rows->dims.size() != 1)
      return file.corrupt(path, fmt::format("rank {}, expected 1", rows->dims.size()));
    auto index = read_index(file, "/units/electrodes_index", units.size(), rows->dims[0]);
    if (!index) return index.error();
    bounds = std::move(*index);
  } else if (auto ok = check_rows(file, path, *rows, units.size()); !ok) {
    return ok.error();
  }
  for (std::size_t u = 0; u < units.size(); ++u) {
    // A unit seen on several electrodes is filed under its first.
    const std::size_t at = ragged ? static_cast<std::size_t>(bounds[u]) : u;
    if (ragged && bounds[u] == bounds[u + 1]) continue;
    const std::int64_t row = rows->values[at];
    if (row < 0 || row >= electrodes)
      return file.corrupt(
          path, fmt::format("row {} names electrode {}, of {} in the table", at, row, electrodes));
    units[u].electrode = row;
  }
  return {};
}

}  // namespace

Result<std::vector<Unit>> read_units(const hdf5::File& file, std::int64_t electrodes) {
  if (!file.exists("/units")) return file.corrupt("/units", "missing: there are no spikes");
  const auto ids = file.integers("/units/id");
  if (!ids) return ids.error();
  if (ids->dims.size() != 1) return file.corrupt("/units/id", "expected one id a row");
  std::vector<Unit> units(ids->values.size());
  std::unordered_set<std::int64_t> seen;
  for (std::size_t u = 0; u < units.size(); ++u) {
    if (!seen.insert(ids->values[u]).second)
      return file.corrupt("/units/id", fmt::format("row {} repeats id {}", u, ids->values[u]));
    units[u].id = std::to_string(ids->values[u]);
  }
  const std::string held_out = "/units/heldout";
  if (file.exists(held_out)) {
    const auto flags = file.integers(held_out);
    if (!flags) return flags.error();
    if (auto ok = check_rows(file, held_out, *flags, units.size()); !ok) return ok.error();
    for (std::size_t u = 0; u < units.size(); ++u) {
      if (flags->values[u] != 0 && flags->values[u] != 1)
        return file.corrupt(
            held_out, fmt::format("row {} is {}, neither true nor false", u, flags->values[u]));
      units[u].held_out = flags->values[u] == 1;
    }
  }
  if (auto ok = read_spikes(file, units); !ok) return ok.error();
  if (auto ok = read_observed(file, units); !ok) return ok.error();
  if (auto ok = read_electrode_rows(file, units, electrodes); !ok) return ok.error();
  return units;
}

}  // namespace cortex::nwb
