#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "data/nwb_parts.h"

namespace cortex::nwb {
namespace {

constexpr int kMaxDepth = 6;
constexpr int kMaxGroups = 10000;

bool is_skipped_series(const hdf5::File& file, const std::string& path) {
  static constexpr const char* kNeural[] = {
      "ElectricalSeries", "SpikeEventSeries", "DecompositionSeries", "RoiResponseSeries",
      "ImageSeries",      "AnnotationSeries", "IntervalSeries"};
  const auto type = file.text_attribute(path, "neurodata_type");
  // Under acquisition lie raw signals of any size and kind: only plain series are behaviour.
  if (path.starts_with("/acquisition/"))
    return !type || (*type != "TimeSeries" && *type != "SpatialSeries");
  return type && std::any_of(std::begin(kNeural), std::end(kNeural),
                             [&](const char* name) { return *type == name; });
}

Result<std::vector<double>> read_times(const hdf5::File& file, const std::string& series,
                                       std::size_t rows) {
  const std::string path = series + "/timestamps";
  if (file.exists(path)) {
    auto times = file.reals(path);
    if (!times) return times.error();
    if (auto ok = check_rows(file, path, *times, rows); !ok) return ok.error();
    for (std::size_t row = 0; row < rows; ++row) {
      const double time = times->values[row];
      if (!std::isfinite(time))
        return file.corrupt(path, fmt::format("row {} is {}, not a finite time", row, time));
      if (row > 0 && time <= times->values[row - 1])
        return file.corrupt(path, fmt::format("row {} is {}, not after {} in the row above", row,
                                              time, times->values[row - 1]));
    }
    return std::move(times->values);
  }
  const std::string start_path = series + "/starting_time";
  if (!file.exists(start_path))
    return file.corrupt(series, "has neither timestamps nor starting_time");
  const auto start = file.reals(start_path);
  if (!start) return start.error();
  const auto rate = file.real_attribute(start_path, "rate");
  if (start->values.size() != 1 || !std::isfinite(start->values[0]))
    return file.corrupt(start_path, "not one finite time");
  if (!rate || !std::isfinite(*rate) || *rate <= 0)
    return file.corrupt(start_path, "its rate is missing or not a positive number");
  std::vector<double> times(rows);
  for (std::size_t row = 0; row < rows; ++row) {
    times[row] = start->values[0] + static_cast<double>(row) / *rate;
    if (row > 0 && !(times[row] > times[row - 1] && std::isfinite(times[row])))
      return file.corrupt(
          start_path, fmt::format("a rate of {} Hz does not advance time at row {}", *rate, row));
  }
  return times;
}

/// Nothing where the group is a series of another kind (images, text, voltages).
Result<std::vector<BehaviorSeries>> read_series(const hdf5::File& file, const std::string& path) {
  const std::string data_path = path + "/data";
  if (is_skipped_series(file, path)) return std::vector<BehaviorSeries>{};
  const auto shape = file.describe(data_path);
  if (!shape) return shape.error();
  if (shape->dims.empty() || shape->dims.size() > 2 || shape->kind == hdf5::Kind::text ||
      shape->kind == hdf5::Kind::other)
    return std::vector<BehaviorSeries>{};
  const auto data = file.reals(data_path);
  if (!data) return data.error();
  BehaviorSeries series;
  series.name = path.substr(path.rfind('/') + 1);
  series.path = path;
  series.unit = file.text_attribute(data_path, "unit").value_or("");
  series.conversion = file.real_attribute(data_path, "conversion").value_or(1.0);
  const double offset = file.real_attribute(data_path, "offset").value_or(0.0);
  if (!std::isfinite(series.conversion) || series.conversion == 0 || !std::isfinite(offset))
    return file.corrupt(data_path, fmt::format("conversion {} and offset {} are no usable scale",
                                               series.conversion, offset));
  series.dims = data->dims.size() == 1 ? 1 : static_cast<std::size_t>(data->dims[1]);
  if (series.dims == 0) return file.corrupt(data_path, "has no columns");
  auto times = read_times(file, path, static_cast<std::size_t>(data->dims[0]));
  if (!times) return times.error();
  series.times_s = std::move(*times);
  series.values.reserve(data->values.size());
  for (const double value : data->values)
    series.values.push_back(static_cast<float>(value * series.conversion + offset));
  std::vector<BehaviorSeries> found;
  found.push_back(std::move(series));
  return found;
}

/// Series in the order of their paths. Links can make a cycle, so depth and number are bounded.
Result<void> walk(const hdf5::File& file, const std::string& group, int depth, int& budget,
                  std::vector<BehaviorSeries>& found) {
  const auto names = file.children(group);
  if (!names) return names.error();
  for (const std::string& name : *names) {
    const std::string path = fmt::format("{}/{}", group, name);
    if (!file.is_group(path)) continue;
    if (--budget < 0) return file.corrupt(group, "implausibly many groups");
    if (file.is_dataset(path + "/data")) {
      auto series = read_series(file, path);
      if (!series) return series.error();
      for (auto& one : *series) found.push_back(std::move(one));
    } else if (depth < kMaxDepth) {
      if (auto ok = walk(file, path, depth + 1, budget, found); !ok) return ok.error();
    }
  }
  return {};
}

Result<void> read_trial_columns(const hdf5::File& file, std::vector<Trial>& trials) {
  const std::string table = "/intervals/trials";
  const auto names = file.children(table);
  if (!names) return names.error();
  for (const std::string& name : *names) {
    const std::string path = fmt::format("{}/{}", table, name);
    if (name == "id" || name == "start_time" || name == "stop_time" || !file.is_dataset(path))
      continue;
    const auto shape = file.describe(path);
    if (!shape) return shape.error();
    if (name == "split") {
      auto split = file.texts(path);
      if (!split) return split.error();
      if (auto ok = check_rows(file, path, *split, trials.size()); !ok) return ok.error();
      for (std::size_t row = 0; row < trials.size(); ++row)
        trials[row].split = std::move(split->values[row]);
      continue;
    }
    // Ragged columns, their indices and columns of more than one value a row are not scalar.
    if (shape->kind == hdf5::Kind::text || shape->kind == hdf5::Kind::other ||
        shape->dims.size() != 1 || name.ends_with("_index") || file.exists(path + "_index"))
      continue;
    const auto column = file.reals(path);
    if (!column) return column.error();
    if (auto ok = check_rows(file, path, *column, trials.size()); !ok) return ok.error();
    for (std::size_t row = 0; row < trials.size(); ++row)
      trials[row].columns.emplace(name, column->values[row]);
  }
  return {};
}

}  // namespace

Result<std::vector<Trial>> read_trials(const hdf5::File& file) {
  const std::string table = "/intervals/trials";
  std::vector<Trial> trials;
  if (!file.exists(table)) return trials;
  const auto ids = file.integers(table + "/id");
  if (!ids) return ids.error();
  if (ids->dims.size() != 1) return file.corrupt(table + "/id", "expected one id a row");
  trials.resize(ids->values.size());
  const auto start = file.reals(table + "/start_time");
  if (!start) return start.error();
  const auto stop = file.reals(table + "/stop_time");
  if (!stop) return stop.error();
  if (auto ok = check_rows(file, table + "/start_time", *start, trials.size()); !ok)
    return ok.error();
  if (auto ok = check_rows(file, table + "/stop_time", *stop, trials.size()); !ok)
    return ok.error();
  for (std::size_t row = 0; row < trials.size(); ++row) {
    trials[row].id = ids->values[row];
    trials[row].span = {start->values[row], stop->values[row]};
    if (!std::isfinite(start->values[row]) || !std::isfinite(stop->values[row]) ||
        stop->values[row] <= start->values[row])
      return file.corrupt(table + "/stop_time",
                          fmt::format("row {}: [{}, {}] is not a span of time", row,
                                      start->values[row], stop->values[row]));
  }
  if (auto ok = read_trial_columns(file, trials); !ok) return ok.error();
  return trials;
}

Result<std::vector<Electrode>> read_electrodes(const hdf5::File& file) {
  const std::string table = "/general/extracellular_ephys/electrodes";
  std::vector<Electrode> electrodes;
  if (!file.exists(table)) return electrodes;
  const auto ids = file.integers(table + "/id");
  if (!ids) return ids.error();
  if (ids->dims.size() != 1) return file.corrupt(table + "/id", "expected one id a row");
  electrodes.resize(ids->values.size());
  for (std::size_t row = 0; row < electrodes.size(); ++row) electrodes[row].id = ids->values[row];
  for (const bool location : {true, false}) {
    const std::string path = table + (location ? "/location" : "/group_name");
    if (!file.exists(path)) continue;
    auto column = file.texts(path);
    if (!column) return column.error();
    if (auto ok = check_rows(file, path, *column, electrodes.size()); !ok) return ok.error();
    for (std::size_t row = 0; row < electrodes.size(); ++row)
      (location ? electrodes[row].location : electrodes[row].group) =
          std::move(column->values[row]);
  }
  return electrodes;
}

Result<std::vector<BehaviorSeries>> read_behavior(const hdf5::File& file) {
  std::vector<BehaviorSeries> found;
  int budget = kMaxGroups;
  for (const char* root : {"/acquisition", "/processing"}) {
    if (!file.is_group(root)) continue;
    if (auto ok = walk(file, root, 0, budget, found); !ok) return ok.error();
  }
  return found;
}

}  // namespace cortex::nwb
