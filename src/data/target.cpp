#include "data/target.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "data/intervals.h"
#include "data/layouts.h"

namespace cortex {
namespace {

constexpr double kWindowS = 0.050;
constexpr double kGapPeriods = 3;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::string parent_of(const std::string& path) { return path.substr(0, path.rfind('/')); }

bool ends_path(const std::string& path, std::string_view tail) {
  if (tail.empty()) return false;
  if (tail.front() == '/') return path == tail;
  return path == tail || (path.size() > tail.size() && path.ends_with(tail) &&
                          path[path.size() - tail.size() - 1] == '/');
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}
bool is_velocity(const BehaviorSeries& series) {
  const std::string name = lower(series.name);
  return name.ends_with("_vel") || name == "vel" || name.find("velocity") != std::string::npos;
}
bool is_position(const BehaviorSeries& series) {
  const std::string name = lower(series.name);
  return name.ends_with("_pos") || name == "pos" || name.find("position") != std::string::npos;
}

/// Resolves one wish; the recording gains the series that it makes.
class Chooser {
 public:
  explicit Chooser(Recording& recording) : recording_(recording) {}

  /// Nothing: there is none of that name.
  Result<std::optional<std::string>> by_name(const std::string& wish) {
    auto series = one_series(wish);
    if (!series) return series.error();
    if (*series != nullptr) return std::optional(take(**series));
    auto group = group_of(wish);
    if (!group) return group.error();
    if (*group) return std::optional(add(*std::move(*group)));
    if (!wish.ends_with("_vel")) return std::optional<std::string>();
    auto position = one_series(wish.substr(0, wish.size() - 4) + "_pos");
    if (!position) return position.error();
    if (*position == nullptr) return std::optional<std::string>();
    return std::optional(derive(**position));
  }

  Result<std::string> velocity(const std::string& wish) {
    auto position = one_series(wish);
    if (!position) return position.error();
    if (*position == nullptr) return absent(wish);
    return derive(**position);
  }

  Result<std::string> automatic(const Layout* layout) {
    if (layout != nullptr) {
      auto found = by_name(layout->target);
      if (!found) return found.error();
      if (*found) return **found;
    }
    const auto& all = recording_.behavior;
    if (all.empty()) return std::string("no behaviour, so nothing to decode");
    for (const char* name : {"hand_vel", "finger_vel", "cursor_vel"})
      if (const auto* series = recording_.find_behavior(name)) return take(*series);
    std::vector<const BehaviorSeries*> velocities, positions;
    for (const BehaviorSeries& series : all) {
      if (is_velocity(series)) velocities.push_back(&series);
      if (is_position(series)) positions.push_back(&series);
    }
    if (velocities.size() == 1) return take(*velocities.front());
    if (velocities.empty()) {
      for (const char* name : {"hand_pos", "finger_pos", "cursor_pos"})
        if (const auto* series = recording_.find_behavior(name)) return derive(*series);
      if (positions.size() == 1) return derive(*positions.front());
      if (positions.empty() && all.size() == 1) return take(all.front());
    }
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: which series to decode? --target names one of: {}",
                             recording_.path, fmt::join(paths(), ", ")),
                 "target"};
  }

  Error absent(const std::string& wish) const {
    return {ErrorCode::not_found,
            fmt::format(
                "{}: no behaviour series '{}'; the file has: {}", recording_.path, wish,
                recording_.behavior.empty() ? "none" : fmt::format("{}", fmt::join(paths(), ", "))),
            "target"};
  }

 private:
  std::vector<std::string> paths() const {
    std::vector<std::string> all;
    for (const BehaviorSeries& series : recording_.behavior) all.push_back(series.path);
    return all;
  }

  Result<const BehaviorSeries*> one_series(const std::string& wish) const {
    std::vector<const BehaviorSeries*> found;
    for (const BehaviorSeries& series : recording_.behavior)
      if (ends_path(series.path, wish)) found.push_back(&series);
    if (found.size() > 1)
      return Error{ErrorCode::invalid_argument,
                   fmt::format("{}: '{}' is the end of several paths, {} and {}: give more of it",
                               recording_.path, wish, found[0]->path, found[1]->path),
                   "target"};
    return found.empty() ? nullptr : found.front();
  }

  Result<std::optional<BehaviorSeries>> group_of(const std::string& wish) const {
    std::vector<const BehaviorSeries*> members;
    for (const BehaviorSeries& series : recording_.behavior)
      if (ends_path(parent_of(series.path), wish)) members.push_back(&series);
    if (members.empty()) return std::optional<BehaviorSeries>();
    const BehaviorSeries& first = *members.front();
    BehaviorSeries all = first;
    all.path = parent_of(first.path);
    all.name = all.path.substr(all.path.rfind('/') + 1);
    all.dims = members.size();
    all.values.resize(first.times_s.size() * all.dims);
    for (std::size_t d = 0; d < members.size(); ++d) {
      const BehaviorSeries& series = *members[d];
      const bool fits = series.dims == 1 && series.times_s == first.times_s &&
                        series.unit == first.unit && parent_of(series.path) == all.path;
      if (!fits)
        return Error{ErrorCode::invalid_argument,
                     fmt::format("{}: {} and {} are not one target: dimensions, times, units or "
                                 "groups differ",
                                 recording_.path, first.path, series.path),
                     "target"};
      for (std::size_t row = 0; row < series.values.size(); ++row)
        all.values[row * all.dims + d] = series.values[row];
    }
    return std::optional(std::move(all));
  }

  std::string take(const BehaviorSeries& series) {
    recording_.target = series.path;
    return fmt::format("target {}", series.path);
  }
  std::string add(BehaviorSeries series) {
    recording_.target = series.path;
    std::string said = fmt::format("target {}, its {} series as one", series.path, series.dims);
    recording_.behavior.push_back(std::move(series));
    return said;
  }
  std::string derive(const BehaviorSeries& position) {
    BehaviorSeries velocity = velocity_of(position);
    recording_.target = velocity.path;
    std::string said = fmt::format("target {}, the slope of {} over the last {:g} ms",
                                   velocity.path, position.path, kWindowS * 1e3);
    recording_.behavior.push_back(std::move(velocity));
    return said;
  }

  Recording& recording_;
};

/// NaN wherever the mask says that nothing is scored.
void apply_mask(const BehaviorSeries& mask, BehaviorSeries& target) {
  const double gap = kGapPeriods * median_period(mask.times_s);
  std::size_t at = 0;
  for (std::size_t row = 0; row < target.times_s.size(); ++row) {
    const double time = target.times_s[row];
    while (at + 1 < mask.times_s.size() && mask.times_s[at + 1] <= time) ++at;
    const bool there = !mask.times_s.empty() && mask.times_s[at] <= time &&
                       time - mask.times_s[at] <= gap && mask.values[at * mask.dims] != 0;
    if (there) continue;
    for (std::size_t d = 0; d < target.dims; ++d) target.values[row * target.dims + d] = kNaN;
  }
}

}  // namespace

BehaviorSeries velocity_of(const BehaviorSeries& position) {
  BehaviorSeries v = position;
  v.name = position.name.ends_with("_pos") ? position.name.substr(0, position.name.size() - 4)
                                           : position.name;
  v.name += "_vel";
  v.path = parent_of(position.path) + "/" + v.name;
  if (!v.unit.empty()) v.unit += "/s";
  v.conversion = 1;
  const std::vector<double>& t = position.times_s;
  const double gap = kGapPeriods * median_period(t);
  for (std::size_t row = 0; row < t.size(); ++row) {
    std::size_t first = row;
    while (first > 0 && t[first] - t[first - 1] <= gap &&
           (t[row] - t[first - 1] <= kWindowS * (1 + 1e-9) || first == row))
      --first;
    for (std::size_t d = 0; d < v.dims; ++d) {
      double n = 0, sum_t = 0, sum_x = 0, sum_tt = 0, sum_tx = 0;
      for (std::size_t k = first; k <= row; ++k) {
        const double x = position.values[k * v.dims + d];
        // A NaN ends the fit: samples from before it are not joined to those after it.
        if (!std::isfinite(x)) {
          n = sum_t = sum_x = sum_tt = sum_tx = 0;
          continue;
        }
        // Relative to the present sample, so that late in a session no digits are lost.
        const double s = t[k] - t[row];
        n += 1;
        sum_t += s;
        sum_x += x;
        sum_tt += s * s;
        sum_tx += s * x;
      }
      const double spread = n * sum_tt - sum_t * sum_t;
      v.values[row * v.dims + d] =
          n >= 2 && spread > 0 ? static_cast<float>((n * sum_tx - sum_t * sum_x) / spread) : kNaN;
    }
  }
  return v;
}

Result<std::string> choose_target(Recording& recording, const std::string& target) {
  static constexpr std::string_view kVelocity = "velocity:";
  const Layout* layout = find_layout(recording);
  Chooser chooser(recording);
  std::string said;
  if (target.empty() || target == "auto") {
    auto chosen = chooser.automatic(layout);
    if (!chosen) return chosen.error();
    said = *std::move(chosen);
  } else if (target.starts_with(kVelocity)) {
    auto chosen = chooser.velocity(target.substr(kVelocity.size()));
    if (!chosen) return chosen.error();
    said = *std::move(chosen);
  } else {
    auto chosen = chooser.by_name(target);
    if (!chosen) return chosen.error();
    if (!*chosen) return chooser.absent(target);
    said = **std::move(chosen);
  }
  if (layout == nullptr || *layout->mask == '\0' || recording.target.empty()) return said;
  BehaviorSeries* chosen = nullptr;
  const BehaviorSeries* mask = nullptr;
  for (BehaviorSeries& series : recording.behavior) {
    if (series.path == recording.target) chosen = &series;
    if (ends_path(series.path, layout->mask)) mask = &series;
  }
  if (mask == nullptr || chosen == nullptr || mask == chosen) return said;
  apply_mask(*mask, *chosen);
  return said + fmt::format(", where {} is not 0", mask->path);
}

}  // namespace cortex
