#include "import/csv.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <map>
#include <optional>
#include <utility>

namespace cortex::csv {
namespace {

constexpr std::size_t kMaxColumns = 10'000;

/// Walks the lines of one table.
class Table {
 public:
  Table(std::string_view text, std::string name) : rest_(text), name_(std::move(name)) {
    if (rest_.starts_with("\xEF\xBB\xBF")) rest_.remove_prefix(3);
  }

  Result<void> read_header() {
    if (!next()) return fail("is empty: a line of column names comes first");
    columns_ = cells_;
    if (columns_.size() > kMaxColumns)
      return fail(fmt::format("{} columns, more than {}", columns_.size(), kMaxColumns));
    for (std::size_t c = 0; c < columns_.size(); ++c) {
      if (columns_[c].empty()) return fail(fmt::format("column {} has no name", c + 1));
      if (std::find(columns_.begin(), columns_.begin() + static_cast<std::ptrdiff_t>(c),
                    columns_[c]) != columns_.begin() + static_cast<std::ptrdiff_t>(c))
        return fail(fmt::format("column '{}' comes twice", columns_[c]));
    }
    return {};
  }

  /// The next line that is not blank; false at the end. `error` is set if it does not fit.
  bool next_row(std::optional<Error>& error) {
    if (!next()) return false;
    if (cells_.size() != columns_.size())
      error = fail(fmt::format("{} cells, the header has {}", cells_.size(), columns_.size()));
    return !error;
  }

  std::optional<std::size_t> find(std::string_view column) const {
    const auto at = std::find(columns_.begin(), columns_.end(), column);
    if (at == columns_.end()) return std::nullopt;
    return static_cast<std::size_t>(at - columns_.begin());
  }
  const std::vector<std::string_view>& columns() const { return columns_; }
  std::string_view cell(std::size_t column) const { return cells_[column]; }

  Result<double> number(std::size_t column) const {
    const std::string_view text = cells_[column];
    double value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc() || end != text.data() + text.size() || !std::isfinite(value))
      return fail(fmt::format("column '{}': '{}' is no finite number", columns_[column],
                              text.substr(0, 40)));
    return value;
  }
  Result<double> number_or_nan(std::size_t column) const {
    const std::string_view text = cells_[column];
    if (text.empty() || text == "nan" || text == "NaN")
      return std::numeric_limits<double>::quiet_NaN();
    return number(column);
  }
  Result<std::int64_t> integer(std::size_t column) const {
    const std::string_view text = cells_[column];
    std::int64_t value = 0;
    const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (failure != std::errc() || end != text.data() + text.size())
      return fail(
          fmt::format("column '{}': '{}' is no integer", columns_[column], text.substr(0, 40)));
    return value;
  }

  Error fail(const std::string& what) const {
    return {ErrorCode::corrupt_data, fmt::format("{}: line {}: {}", name_, line_, what), "file"};
  }

 private:
  bool next() {
    while (!rest_.empty()) {
      const std::size_t end = std::min(rest_.find('\n'), rest_.size());
      std::string_view line = rest_.substr(0, end);
      rest_.remove_prefix(std::min(end + 1, rest_.size()));
      ++line_;
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (trimmed(line).empty()) continue;
      cells_.clear();
      for (std::size_t at = 0; at <= line.size();) {
        const std::size_t comma = std::min(line.find(',', at), line.size());
        cells_.push_back(trimmed(line.substr(at, comma - at)));
        at = comma + 1;
      }
      return true;
    }
    return false;
  }

  static std::string_view trimmed(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
    return text;
  }

  std::string_view rest_;
  std::string name_;
  std::size_t line_ = 0;
  std::vector<std::string_view> columns_, cells_;
};

Error columns_wrong(const Table& table, const char* expected) {
  return table.fail(
      fmt::format("columns {}; expected {}", fmt::join(table.columns(), ", "), expected));
}

}  // namespace

Result<std::vector<Unit>> read_events(std::string_view text, const std::string& name) {
  Table table(text, name);
  if (auto ok = table.read_header(); !ok) return ok.error();
  const auto unit = table.find("unit"), time = table.find("time_s");
  if (!unit || !time || table.columns().size() != 2)
    return columns_wrong(table, "unit and time_s alone");
  std::map<std::int64_t, std::vector<double>> spikes;
  std::optional<Error> error;
  while (table.next_row(error)) {
    const auto id = table.integer(*unit);
    if (!id) return id.error();
    const auto at = table.number(*time);
    if (!at) return at.error();
    spikes[*id].push_back(*at);
  }
  if (error) return *error;
  if (spikes.empty()) return table.fail("no spikes");
  std::vector<Unit> units;
  for (auto& [id, times] : spikes) {
    std::sort(times.begin(), times.end());
    units.emplace_back();
    units.back().id = std::to_string(id);
    units.back().spike_times_s = std::move(times);
  }
  return units;
}

Result<BehaviorSeries> read_behavior(std::string_view text, const std::string& name,
                                     const std::string& series) {
  Table table(text, name);
  if (auto ok = table.read_header(); !ok) return ok.error();
  const auto time = table.find("time_s");
  if (!time || table.columns().size() < 2)
    return columns_wrong(table, "time_s and a column NAME[UNIT] a dimension");
  BehaviorSeries out;
  out.name = series;
  out.path = "/processing/behavior/" + series;
  out.dims = table.columns().size() - 1;
  bool first = true;
  for (std::size_t c = 0; c < table.columns().size(); ++c) {
    if (c == *time) continue;
    const std::string_view column = table.columns()[c];
    const std::size_t open = column.find('[');
    if (open == 0 || open == column.npos || !column.ends_with(']') || open + 2 >= column.size())
      return table.fail(fmt::format("column '{}' is not of the form NAME[UNIT]", column));
    const std::string unit(column.substr(open + 1, column.size() - open - 2));
    if (!first && unit != out.unit)
      return table.fail(
          fmt::format("column '{}' is in {}, the first in {}", column, unit, out.unit));
    out.unit = unit;
    first = false;
  }
  std::optional<Error> error;
  while (table.next_row(error)) {
    const auto at = table.number(*time);
    if (!at) return at.error();
    if (!out.times_s.empty() && *at <= out.times_s.back())
      return table.fail(fmt::format("time_s {} is not after {}", *at, out.times_s.back()));
    out.times_s.push_back(*at);
    for (std::size_t c = 0; c < table.columns().size(); ++c) {
      if (c == *time) continue;
      const auto value = table.number_or_nan(c);
      if (!value) return value.error();
      out.values.push_back(static_cast<float>(*value));
    }
  }
  if (error) return *error;
  if (out.times_s.empty()) return table.fail("no samples");
  return out;
}

Result<std::vector<Trial>> read_trials(std::string_view text, const std::string& name) {
  Table table(text, name);
  if (auto ok = table.read_header(); !ok) return ok.error();
  const auto start = table.find("start_s"), stop = table.find("stop_s");
  const auto split = table.find("split");
  if (!start || !stop) return columns_wrong(table, "start_s, stop_s and others");
  std::vector<Trial> trials;
  std::optional<Error> error;
  while (table.next_row(error)) {
    Trial trial;
    trial.id = static_cast<std::int64_t>(trials.size());
    const auto from = table.number(*start);
    if (!from) return from.error();
    const auto to = table.number(*stop);
    if (!to) return to.error();
    if (*to < *from) return table.fail(fmt::format("stop_s {} is before start_s {}", *to, *from));
    trial.span = {*from, *to};
    for (std::size_t c = 0; c < table.columns().size(); ++c) {
      if (c == *start || c == *stop) continue;
      if (split && c == *split) {
        trial.split = std::string(table.cell(c));
        continue;
      }
      const auto value = table.number_or_nan(c);
      if (!value) return value.error();
      trial.columns.emplace(table.columns()[c], *value);
    }
    trials.push_back(std::move(trial));
  }
  if (error) return *error;
  if (trials.empty()) return table.fail("no trials");
  return trials;
}

}  // namespace cortex::csv
