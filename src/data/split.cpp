#include "data/split.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>
#include <vector>

#include "data/intervals.h"

namespace cortex {
namespace {

constexpr double kBlockS = 10;
constexpr double kGuardS = 1;

Error bad(const Recording& recording, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("{}: {}", recording.path, what), "split"};
}

/// Trials for a file that has none.
Result<void> cut_blocks(Recording& recording) {
  const Interval span = session_span(recording, observed_union(recording));
  const double length = span.stop_s - span.start_s;
  if (!std::isfinite(length) || length < 10 * 2 * kGuardS)
    return bad(recording, fmt::format("without trials, and {} s are too short to cut into blocks "
                                      "with {} s between them",
                                      std::isfinite(length) ? length : 0.0, kGuardS));
  const auto blocks = std::min(1e6, std::max(10.0, std::floor(length / kBlockS)));
  for (double b = 0; b < blocks; ++b) {
    Trial trial;
    trial.id = static_cast<std::int64_t>(b);
    trial.span = {span.start_s + length * b / blocks + kGuardS / 2,
                  span.start_s + length * (b + 1) / blocks - kGuardS / 2};
    recording.trials.push_back(std::move(trial));
  }
  return {};
}

Result<std::string> by_share(Recording& recording, double share) {
  const bool blocks = recording.trials.empty();
  if (blocks)
    if (auto ok = cut_blocks(recording); !ok) return ok.error();
  std::vector<Trial>& trials = recording.trials;
  if (trials.size() < 2)
    return bad(recording, fmt::format("{} trial cannot be shared out", trials.size()));
  std::vector<std::size_t> order(trials.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return trials[a].span.start_s < trials[b].span.start_s;
  });
  const double count = static_cast<double>(trials.size());
  const double wanted = std::clamp(std::round(share * count), 1.0, count - 1);
  std::size_t val = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    // Evenly spread: the trials at which the running share passes a whole number.
    const double position = static_cast<double>(i);
    const bool is_val = std::floor((position + 1) * wanted / count + 1e-9) >
                        std::floor(position * wanted / count + 1e-9);
    trials[order[i]].split = is_val ? "val" : "train";
    val += is_val ? 1 : 0;
  }
  return fmt::format("{} of {} {} are for validation, spread evenly", val, trials.size(),
                     blocks ? "blocks" : "trials");
}

Result<std::string> by_column(Recording& recording, const std::string& column) {
  if (recording.trials.empty())
    return bad(recording, fmt::format("no trials, so no column '{}'", column));
  std::vector<std::string> splits;
  for (std::size_t row = 0; row < recording.trials.size(); ++row) {
    const Trial& trial = recording.trials[row];
    const auto found = trial.columns.find(column);
    if (found == trial.columns.end()) {
      std::vector<std::string> names;
      for (const auto& [name, value] : trial.columns) names.push_back(name);
      return bad(recording, fmt::format("trials have no numeric column '{}'; they have: {}", column,
                                        fmt::join(names, ", ")));
    }
    const double value = found->second;
    if (std::isnan(value))
      splits.emplace_back();
    else if (value == 0 || value == 1 || value == 2)
      splits.emplace_back(value == 0 ? "train" : value == 1 ? "val" : "test");
    else
      return bad(recording, fmt::format("column '{}', row {} is {}, not 0 (train), 1 (val) or 2 "
                                        "(test)",
                                        column, row, value));
  }
  for (std::size_t row = 0; row < splits.size(); ++row)
    recording.trials[row].split = std::move(splits[row]);
  return fmt::format("split by column {}: 0 train, 1 val, 2 test", column);
}

}  // namespace

Result<std::string> assign_split(Recording& recording, const std::string& split) {
  const bool has_own = std::any_of(recording.trials.begin(), recording.trials.end(),
                                   [](const Trial& trial) { return !trial.split.empty(); });
  if (split.empty() || split == "split") {
    if (has_own) return std::string("split as the file has it");
    if (split == "split") return bad(recording, "its trials have no column 'split'");
    auto said = by_share(recording, kDefaultValShare);
    if (!said) return said.error();
    return "no split in the file: " + *said;
  }
  char* end = nullptr;
  const double share = std::strtod(split.c_str(), &end);
  if (*end != '\0') return by_column(recording, split);
  if (!(share > 0 && share < 1))
    return bad(recording, fmt::format("split {} is no fraction between 0 and 1", split));
  return by_share(recording, share);
}

}  // namespace cortex
