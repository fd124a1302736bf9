#include "import/mat.h"

#include <fmt/format.h>
#include <matio.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <memory>
#include <utility>

#include "core/file.h"

namespace cortex {
namespace {

using Variable = std::unique_ptr<matvar_t, void (*)(matvar_t*)>;

constexpr std::size_t kMaxVariables = 10'000;
constexpr const char* kSeries[] = {"hand_pos",   "hand_vel",   "cursor_pos",
                                   "cursor_vel", "finger_pos", "finger_vel"};

/// Rows and columns of numbers, row-major.
struct Matrix {
  std::size_t rows = 0, columns = 0;
  std::vector<double> values;
};

class Mat {
 public:
  Mat(std::string path, const std::vector<std::string>& ignore)
      : path_(std::move(path)), ignore_(ignore) {}

  Result<Recording> read() {
    if (auto ok = load(); !ok) return ok.error();
    if (auto ok = read_units(); !ok) return ok.error();
    if (auto ok = read_behavior(); !ok) return ok.error();
    if (auto ok = read_trials(); !ok) return ok.error();
    for (const auto& [name, variable] : variables_)
      if (!used_.contains(name))
        return Error{ErrorCode::unsupported,
                     fmt::format("{}: variable '{}' is not understood; --ignore {} leaves it out",
                                 path_, name, name),
                     "file"};
    return std::move(recording_);
  }

 private:
  Error fail(const std::string& variable, const std::string& what) const {
    return {ErrorCode::corrupt_data, fmt::format("{}: variable '{}' {}", path_, variable, what),
            "file"};
  }

  Result<void> load() {
    // libmatio says nothing of why a file cannot be opened.
    if (auto bytes = read_file(path_); !bytes) return bytes.error();
    const std::unique_ptr<mat_t, int (*)(mat_t*)> file(Mat_Open(path_.c_str(), MAT_ACC_RDONLY),
                                                       Mat_Close);
    if (!file)
      return Error{ErrorCode::corrupt_data,
                   fmt::format("{}: libmatio does not read it as a MATLAB file", path_), "file"};
    while (matvar_t* next = Mat_VarReadNext(file.get())) {
      Variable variable(next, Mat_VarFree);
      const std::string name = variable->name != nullptr ? variable->name : "";
      if (std::find(ignore_.begin(), ignore_.end(), name) != ignore_.end()) continue;
      if (!variables_.emplace(name, std::move(variable)).second) return fail(name, "comes twice");
      if (variables_.size() > kMaxVariables) return fail(name, "is one of implausibly many");
    }
    return {};
  }

  const matvar_t* find(const std::string& name) {
    const auto found = variables_.find(name);
    if (found == variables_.end()) return nullptr;
    used_.emplace(name, true);
    return found->second.get();
  }

  template <class T>
  static void copy(const matvar_t& variable, Matrix& into) {
    const auto* from = static_cast<const T*>(variable.data);
    for (std::size_t r = 0; r < into.rows; ++r)
      for (std::size_t c = 0; c < into.columns; ++c)
        into.values[r * into.columns + c] = static_cast<double>(from[c * into.rows + r]);
  }

  Result<Matrix> matrix(const matvar_t& variable, const std::string& name) const {
    if (variable.rank != 2) return fail(name, fmt::format("has rank {}, not 2", variable.rank));
    if (variable.isComplex != 0) return fail(name, "is complex");
    Matrix out{variable.dims[0], variable.dims[1], {}};
    const std::size_t count = out.rows * out.columns;
    if (count > 0 && (variable.data == nullptr || variable.data_size <= 0 ||
                      variable.nbytes / static_cast<std::size_t>(variable.data_size) != count))
      return fail(name, "is truncated");
    out.values.resize(count);
    switch (variable.class_type) {
      case MAT_C_DOUBLE:
        copy<double>(variable, out);
        break;
      case MAT_C_SINGLE:
        copy<float>(variable, out);
        break;
      case MAT_C_INT64:
        copy<std::int64_t>(variable, out);
        break;
      case MAT_C_INT32:
        copy<std::int32_t>(variable, out);
        break;
      case MAT_C_INT16:
        copy<std::int16_t>(variable, out);
        break;
      case MAT_C_UINT32:
        copy<std::uint32_t>(variable, out);
        break;
      case MAT_C_UINT16:
        copy<std::uint16_t>(variable, out);
        break;
      case MAT_C_UINT8:
        copy<std::uint8_t>(variable, out);
        break;
      default:
        return fail(name, "is no matrix of numbers");
    }
    return out;
  }

  Result<std::vector<double>> vector(const matvar_t& variable, const std::string& name) const {
    auto m = matrix(variable, name);
    if (!m) return m.error();
    if (m->values.size() != 0 && m->rows != 1 && m->columns != 1)
      return fail(name, fmt::format("is {} x {}, not a vector", m->rows, m->columns));
    for (std::size_t i = 0; i < m->values.size(); ++i)
      if (!std::isfinite(m->values[i]))
        return fail(name, fmt::format("has {} at element {}", m->values[i], i + 1));
    return std::move(m->values);
  }

  Result<void> read_units() {
    const matvar_t* spikes = find("spikes");
    if (spikes == nullptr)
      return Error{ErrorCode::corrupt_data, fmt::format("{}: no variable 'spikes'", path_), "file"};
    if (spikes->class_type != MAT_C_CELL || spikes->rank != 2 ||
        (spikes->dims[0] != 1 && spikes->dims[1] != 1) || spikes->data == nullptr)
      return fail("spikes", "is no cell array of a cell a unit");
    const std::size_t count = spikes->dims[0] * spikes->dims[1];
    auto* const* cells = static_cast<matvar_t* const*>(spikes->data);
    std::vector<double> ids(count);
    for (std::size_t u = 0; u < count; ++u) ids[u] = static_cast<double>(u + 1);
    if (const matvar_t* given = find("unit_ids"); given != nullptr) {
      auto read = vector(*given, "unit_ids");
      if (!read) return read.error();
      if (read->size() != count)
        return fail("unit_ids", fmt::format("has {} ids for {} units", read->size(), count));
      ids = *std::move(read);
    }
    for (std::size_t u = 0; u < count; ++u) {
      if (ids[u] != std::round(ids[u]) || std::abs(ids[u]) > 1e15)
        return fail("unit_ids", fmt::format("has {}, no integer", ids[u]));
      if (cells[u] == nullptr) return fail("spikes", fmt::format("has no cell {}", u + 1));
      auto times = vector(*cells[u], fmt::format("spikes{{{}}}", u + 1));
      if (!times) return times.error();
      Unit unit;
      unit.id = fmt::format("{:.0f}", ids[u]);
      for (const Unit& other : recording_.units)
        if (other.id == unit.id) return fail("unit_ids", fmt::format("has {} twice", unit.id));
      std::sort(times->begin(), times->end());
      unit.spike_times_s = *std::move(times);
      recording_.units.push_back(std::move(unit));
    }
    return {};
  }

  Result<void> read_behavior() {
    std::vector<double> times;
    if (const matvar_t* given = find("time"); given != nullptr) {
      auto read = vector(*given, "time");
      if (!read) return read.error();
      times = *std::move(read);
      for (std::size_t i = 1; i < times.size(); ++i)
        if (!(times[i] > times[i - 1]))
          return fail("time", fmt::format("does not ascend at element {}", i + 1));
    }
    for (const std::string name : kSeries) {
      const matvar_t* given = find(name);
      if (given == nullptr) continue;
      auto values = matrix(*given, name);
      if (!values) return values.error();
      if (values->rows != times.size() || values->columns == 0)
        return fail(name, fmt::format("is {} x {} for {} elements of 'time'", values->rows,
                                      values->columns, times.size()));
      const matvar_t* unit = find(name + "_unit");
      if (unit == nullptr || unit->class_type != MAT_C_CHAR || unit->data == nullptr)
        return fail(name, fmt::format("needs its unit in text, '{}_unit'", name));
      BehaviorSeries series;
      series.name = name;
      series.path = "/processing/behavior/" + name;
      if (unit->data_size == 1)
        series.unit.assign(static_cast<const char*>(unit->data), unit->nbytes);
      else if (unit->data_size == 2)
        for (std::size_t i = 0; i < unit->nbytes / 2; ++i)
          series.unit += static_cast<char>(static_cast<const std::uint16_t*>(unit->data)[i]);
      series.dims = values->columns;
      series.times_s = times;
      series.values.assign(values->values.begin(), values->values.end());
      recording_.behavior.push_back(std::move(series));
    }
    return {};
  }

  Result<void> read_trials() {
    const matvar_t* given = find("trials");
    if (given == nullptr) return {};
    auto spans = matrix(*given, "trials");
    if (!spans) return spans.error();
    if (spans->columns != 2)
      return fail("trials", fmt::format("has {} columns, not start and stop", spans->columns));
    for (std::size_t r = 0; r < spans->rows; ++r) {
      Trial trial;
      trial.id = static_cast<std::int64_t>(r);
      trial.span = {spans->values[2 * r], spans->values[2 * r + 1]};
      if (!(trial.span.stop_s >= trial.span.start_s) || !std::isfinite(trial.span.stop_s) ||
          !std::isfinite(trial.span.start_s))
        return fail("trials", fmt::format("has no span of time in row {}", r + 1));
      recording_.trials.push_back(std::move(trial));
    }
    const matvar_t* split = find("split");
    if (split == nullptr) return {};
    auto values = vector(*split, "split");
    if (!values) return values.error();
    if (values->size() != recording_.trials.size())
      return fail("split", fmt::format("has {} values for {} trials", values->size(),
                                       recording_.trials.size()));
    static constexpr const char* kNames[] = {"train", "val", "test"};
    for (std::size_t r = 0; r < values->size(); ++r) {
      const double value = (*values)[r];
      if (value != 0 && value != 1 && value != 2)
        return fail("split", fmt::format("has {} for trial {}, not 0, 1 or 2", value, r + 1));
      recording_.trials[r].split = kNames[static_cast<int>(value)];
    }
    return {};
  }

  std::string path_;
  const std::vector<std::string>& ignore_;
  std::map<std::string, Variable> variables_;
  std::map<std::string, bool> used_;
  Recording recording_;
};

}  // namespace

Result<Recording> read_mat(const std::string& path, const std::vector<std::string>& ignore) {
  return Mat(path, ignore).read();
}

}  // namespace cortex
