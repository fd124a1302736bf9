#include "replay_scene.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace cortex {
namespace {

constexpr double kRasterMs = 2000;
constexpr double kSparkMs = 10000;
constexpr int kLeastColumns = 48;
constexpr int kLeastRows = 12;
constexpr int kBoxedColumns = 72;  // narrower terminals show the raster without the cursor's box
constexpr int kLeastBox = 18;
constexpr const char* kLevels[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};

std::string inked(Ink ink, const std::string& text) {
  return fmt::format("\x1b[{}m{}\x1b[0m", static_cast<int>(ink), text);
}

std::string clock_text(double seconds) {
  const auto tenths = static_cast<std::int64_t>(std::lround(seconds * 10));
  return fmt::format("{:02}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10);
}

std::string repeat(const char* glyph, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += glyph;
  return text;
}

/// `text` (ASCII) cut or padded to `width` columns.
std::string fit(const std::string& text, int width) {
  const auto room = static_cast<std::size_t>(std::max(width, 0));
  return text.size() > room ? text.substr(0, room) : text + std::string(room - text.size(), ' ');
}

}  // namespace

ReplayScene::ReplayScene(const ReplayTrace& trace, ViewLabels labels)
    : trace_(trace),
      labels_(std::move(labels)),
      sum_(trace.outputs),
      sum_squares_(trace.outputs),
      residual_(trace.outputs) {
  // The box fits the farthest that the true cursor gets from any trial's start.
  if (!trace_.has_target()) return;
  std::int32_t trial = -1;
  Point at;
  for (std::int64_t s = 0; s < trace_.total; ++s) {
    const std::int32_t now = trace_.stepped.trial[static_cast<std::size_t>(s)];
    if (now < 0) continue;
    if (now != trial) at = {};
    trial = now;
    const float* velocity = trace_.target_row(s);
    if (std::isfinite(velocity[0])) at.x += velocity[0] * trace_.stepped.step_ms * 1e-3;
    if (trace_.outputs > 1 && std::isfinite(velocity[1]))
      at.y += velocity[1] * trace_.stepped.step_ms * 1e-3;
    reach_ = std::max({reach_, std::abs(at.x), std::abs(at.y)});
  }
}

void ReplayScene::advance() {
  const std::int64_t done = trace_.done.load(std::memory_order_acquire);
  const double step_s = trace_.stepped.step_ms * 1e-3;
  const auto walk = [&](std::vector<Point>& path, const float* velocity) {
    Point next = path.back();
    if (std::isfinite(velocity[0])) next.x += velocity[0] * step_s;
    if (trace_.outputs > 1 && std::isfinite(velocity[1])) next.y += velocity[1] * step_s;
    path.push_back(next);
  };
  for (; seen_ < done; ++seen_) {
    const auto s = static_cast<std::size_t>(seen_);
    latency_.record(trace_.latency_ns[s]);
    const bool late = static_cast<double>(trace_.latency_ns[s]) > labels_.deadline_ms * 1e6;
    missed_ += late || trace_.withheld[s] != 0 ? 1 : 0;
    const float* decoded = trace_.decoded_row(seen_);
    const float* target = trace_.has_target() ? trace_.target_row(seen_) : nullptr;
    if (target != nullptr && trace_.scored[s] != 0) {
      ++scored_;
      for (std::size_t d = 0; d < trace_.outputs; ++d) {
        const double error = static_cast<double>(target[d]) - decoded[d];
        sum_[d] += target[d];
        sum_squares_[d] += static_cast<double>(target[d]) * target[d];
        residual_[d] += error * error;
      }
    }
    const std::int32_t trial = trace_.stepped.trial[s];
    if (trial >= 0 && trial != trial_) {
      // Integrated velocity drifts: each trial starts from the middle.
      trial_ = trial;
      true_path_.assign(1, Point{});
      decoded_path_.assign(1, Point{});
    }
    if (trial < 0 || trial != trial_) continue;
    walk(decoded_path_, decoded);
    if (target != nullptr) walk(true_path_, target);
    if (!trace_.has_target())
      reach_ =
          std::max({reach_, std::abs(decoded_path_.back().x), std::abs(decoded_path_.back().y)});
  }
}

double ReplayScene::running_r2() const {
  if (scored_ < 2) return std::numeric_limits<double>::quiet_NaN();
  double sum = 0;
  const auto rows = static_cast<double>(scored_);
  for (std::size_t d = 0; d < trace_.outputs; ++d)
    sum += 1 - residual_[d] / (sum_squares_[d] - sum_[d] * sum_[d] / rows);
  return sum / static_cast<double>(trace_.outputs);
}

void ReplayScene::draw_raster(BrailleCanvas& canvas) const {
  const auto& stepped = trace_.stepped;
  const auto units = static_cast<std::int64_t>(stepped.unit_ids.size());
  if (units == 0 || seen_ == 0) return;
  // Dots keep a fixed place in session time, so the picture scrolls without flicker.
  const double dot_ms = kRasterMs / canvas.width();
  const auto newest =
      static_cast<std::int64_t>(static_cast<double>(seen_) * stepped.step_ms / dot_ms);
  const auto back = static_cast<std::int64_t>(std::ceil(kRasterMs / stepped.step_ms)) + 1;
  for (std::int64_t s = std::max<std::int64_t>(0, seen_ - back); s < seen_; ++s) {
    for (const Event& event : stepped.step_events(s)) {
      const double t_ms = (static_cast<double>(event.bin) + 0.5) * stepped.bin_ms;
      const auto x = static_cast<std::int64_t>(t_ms / dot_ms) - newest + canvas.width() - 1;
      if (x < 0) continue;
      const auto y = static_cast<std::int64_t>(event.unit) * canvas.height() / units;
      canvas.dot(static_cast<int>(x), static_cast<int>(y), Ink::green);
    }
  }
}

void ReplayScene::draw_cursor(BrailleCanvas& canvas) const {
  const double half_x = (canvas.width() - 1) / 2.0;
  const double half_y = (canvas.height() - 1) / 2.0;
  const double scale = reach_ > 0 ? std::min(half_x, half_y) / (reach_ * 1.1) : 0;
  const auto place = [&](const Point& point) {
    // Beyond a canvas's width from the middle the exact place does not show.
    const double limit = 2.0 * (canvas.width() + canvas.height());
    return std::pair<int, int>(
        static_cast<int>(std::lround(half_x + std::clamp(point.x * scale, -limit, limit))),
        static_cast<int>(std::lround(half_y - std::clamp(point.y * scale, -limit, limit))));
  };
  const auto draw = [&](const std::vector<Point>& path, Ink ink) {
    for (std::size_t i = 1; i < path.size(); ++i) {
      const auto [x0, y0] = place(path[i - 1]);
      const auto [x1, y1] = place(path[i]);
      canvas.line(x0, y0, x1, y1, ink);
    }
  };
  draw(true_path_, Ink::yellow);
  draw(decoded_path_, Ink::cyan);
  const auto head = [&](const std::vector<Point>& path, const char* glyph, Ink ink) {
    if (path.empty()) return;
    const auto [x, y] = place(path.back());
    canvas.mark(std::clamp(x, 0, canvas.width() - 1), std::clamp(y, 0, canvas.height() - 1), glyph,
                ink);
  };
  head(true_path_, "○", Ink::yellow);
  head(decoded_path_, "●", Ink::cyan);
}

std::string ReplayScene::trial_bar(int columns) const {
  const double column_steps = kRasterMs / trace_.stepped.step_ms / columns;
  const auto newest = static_cast<std::int64_t>(static_cast<double>(seen_) / column_steps);
  std::string bar;
  for (int c = 0; c < columns; ++c) {
    const auto column = newest - columns + 1 + c;
    const auto step = static_cast<std::int64_t>(static_cast<double>(column) * column_steps);
    const bool inside =
        column >= 0 && step < seen_ && trace_.stepped.trial[static_cast<std::size_t>(step)] >= 0;
    bar += inside ? "━" : " ";
  }
  return inked(Ink::grey, bar);
}

std::string ReplayScene::sparkline(int columns) const {
  const auto group = std::max<std::int64_t>(
      1, static_cast<std::int64_t>(kSparkMs / trace_.stepped.step_ms / columns));
  const std::int64_t newest = seen_ / group;
  std::vector<double> slowest(static_cast<std::size_t>(columns), -1);
  double top = 0;
  for (int c = 0; c < columns; ++c) {
    const std::int64_t first = (newest - columns + 1 + c) * group;
    for (std::int64_t s = std::max<std::int64_t>(first, 0); s < std::min(first + group, seen_);
         ++s) {
      auto& value = slowest[static_cast<std::size_t>(c)];
      value = std::max(value, static_cast<double>(trace_.latency_ns[static_cast<std::size_t>(s)]));
      top = std::max(top, value);
    }
  }
  std::string text;
  for (const double value : slowest) {
    if (value < 0) {
      text += " ";
      continue;
    }
    const int level = top > 0 ? std::min(7, static_cast<int>(value / top * 8)) : 0;
    text += value > labels_.deadline_ms * 1e6 ? inked(Ink::red, kLevels[level]) : kLevels[level];
  }
  return text;
}

std::string ReplayScene::latency_line() const {
  const auto ms = [](std::int64_t ns) { return static_cast<double>(ns) * 1e-6; };
  const std::string missed = fmt::format("missed {}", missed_);
  return fmt::format("p50 {:.2f}  p99 {:.2f}  max {:.2f} ms  deadline {:g} ms  {}",
                     ms(latency_.quantile_ns(0.5)), ms(latency_.quantile_ns(0.99)),
                     ms(latency_.max_ns()), labels_.deadline_ms,
                     missed_ == 0 ? missed : inked(Ink::red, missed));
}

std::string ReplayScene::state_line() const {
  std::string text = std::isfinite(running_r2()) ? fmt::format("R2 {:.3f}", running_r2()) : "R2 -";
  text += fmt::format("  {} steps scored", scored_);
  const std::int32_t now =
      seen_ > 0 ? trace_.stepped.trial[static_cast<std::size_t>(seen_ - 1)] : -1;
  text += now < 0 ? "  between trials"
                  : fmt::format("  trial {}", labels_.trial_names[static_cast<std::size_t>(now)]);
  return text;
}

std::string ReplayScene::progress() const {
  const auto ms = [](std::int64_t ns) { return static_cast<double>(ns) * 1e-6; };
  const double r2 = running_r2();
  return fmt::format("step {}/{}  R2 {}  p50 {:.2f}  p99 {:.2f}  max {:.2f} ms  missed {}", seen_,
                     trace_.total, std::isfinite(r2) ? fmt::format("{:.3f}", r2) : "-",
                     ms(latency_.quantile_ns(0.5)), ms(latency_.quantile_ns(0.99)),
                     ms(latency_.max_ns()), missed_);
}

std::vector<std::string> ReplayScene::frame(int columns, int rows) const {
  if (columns < kLeastColumns || rows < kLeastRows) return {fit(progress(), columns)};
  const double step_s = trace_.stepped.step_ms * 1e-3;
  const std::string time = clock_text(static_cast<double>(seen_) * step_s) + " / " +
                           clock_text(static_cast<double>(trace_.total) * step_s);
  const auto& decoder = labels_.decoder;
  std::vector<std::string> lines;
  const int left = columns - static_cast<int>(time.size()) - 1;
  lines.push_back("\x1b[1m" +
                  fit(fmt::format("Cortex-Engine  {}  ->  {} {}", labels_.recording, decoder.model,
                                  decoder.precision),
                      left) +
                  "\x1b[0m " + time);

  const int panel_rows = rows - 7;
  const int box =
      columns < kBoxedColumns ? 0 : std::clamp(2 * panel_rows, kLeastBox, columns * 2 / 5);
  const int raster_columns = box == 0 ? columns : columns - box - 4;
  BrailleCanvas raster(raster_columns, panel_rows);
  draw_raster(raster);
  BrailleCanvas cursor(box, panel_rows);
  if (box > 0) draw_cursor(cursor);

  std::string header = fit(fmt::format("spikes of {} units, last {:g} s",
                                       trace_.stepped.unit_ids.size(), kRasterMs * 1e-3),
                           raster_columns);
  if (box > 0) {
    const std::string unit = decoder.output_units.empty() ? "" : decoder.output_units.front();
    const std::string reach =
        box >= 36 ? fmt::format("  +-{:.3g} {}", reach_ * 1.1, unit.substr(0, unit.find('/'))) : "";
    header += "   " + inked(Ink::yellow, "○ true") + "  " + inked(Ink::cyan, "● decoded") + reach;
  }
  lines.push_back(header);
  if (box > 0) {
    lines.push_back(std::string(static_cast<std::size_t>(raster_columns), ' ') + "  ┌" +
                    repeat("─", box) + "┐");
  } else {
    lines.emplace_back();
  }
  for (int r = 0; r < panel_rows; ++r)
    lines.push_back(raster.row(r) + (box > 0 ? "  │" + cursor.row(r) + "│" : ""));
  lines.push_back(trial_bar(raster_columns) + (box > 0 ? "  └" + repeat("─", box) + "┘" : ""));
  lines.push_back("latency  " + sparkline(columns - 10));
  lines.push_back("         " + latency_line());
  lines.push_back("         " + state_line());
  return lines;
}

}  // namespace cortex
