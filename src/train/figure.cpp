#include "train/figure.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace cortex::train {
namespace {

constexpr double kLeft = 52, kRight = 12, kTop = 28, kBottom = 40;
constexpr double kKey = 104;  // beside the plot, where a series has a label

struct Axis {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();

  void include(double v) {
    if (!std::isfinite(v)) return;
    low = std::min(low, v);
    high = std::max(high, v);
  }
  void close() {
    if (!(low <= high)) low = 0, high = 1;
    if (high - low < 1e-12) low -= 0.5, high += 0.5;
    const double room = 0.04 * (high - low);
    low -= room;
    high += room;
  }
  double place(double v) const { return (v - low) / (high - low); }

  /// Round numbers, about five of them.
  std::vector<double> ticks() const {
    const double raw = (high - low) / 5;
    const double unit = std::pow(10, std::floor(std::log10(raw)));
    double step = 10 * unit;
    for (const double nice : {5.0, 2.0, 1.0})
      if (nice * unit >= raw) step = nice * unit;
    std::vector<double> out;
    for (double v = std::ceil(low / step) * step; v <= high; v += step)
      out.push_back(std::abs(v) < 1e-9 * step ? 0 : v);
    return out;
  }
};

}  // namespace

std::string series_colour(std::size_t index) {
  static constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                             "#e69f00", "#56b4e9", "#8c6d31", "#555555"};
  return kColours[index % std::size(kColours)];
}

std::string escape_html(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '"')
      out += "&quot;";
    else
      out += c;
  }
  return out;
}

std::string to_svg(const Figure& f) {
  Axis x, y;
  for (const Series& s : f.series)
    for (const auto& [px, py] : s.points)
      if (std::isfinite(px) && std::isfinite(py)) x.include(px), y.include(py);
  x.close();
  y.close();
  const bool keyed = std::any_of(f.series.begin(), f.series.end(),
                                 [](const Series& s) { return !s.label.empty(); });
  const double inner_w = f.width - kLeft - kRight;
  const double inner_h = f.height - kTop - kBottom;
  const auto at_x = [&](double v) { return kLeft + inner_w * x.place(v); };
  const auto at_y = [&](double v) { return kTop + inner_h * (1 - y.place(v)); };
  std::string out = fmt::format(
      "<svg viewBox=\"0 0 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" aria-label=\"{2}\">"
      "<text x=\"{3}\" y=\"16\" class=\"title\">{2}</text>",
      f.width + (keyed ? kKey : 0), f.height, escape_html(f.title), kLeft);
  for (const double v : x.ticks())
    out += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>"
        "<text x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:g}</text>",
        at_x(v), kTop, kTop + inner_h, kTop + inner_h + 14, v);
  for (const double v : y.ticks())
    out += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/>"
        "<text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:g}</text>",
        kLeft, kLeft + inner_w, at_y(v), kLeft - 5, at_y(v) + 4, v);
  out += fmt::format(
      "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>"
      "<text transform=\"translate(13 {}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
      kLeft + inner_w / 2, f.height - 8, escape_html(f.x_label), kTop + inner_h / 2,
      escape_html(f.y_label));
  double key_y = kTop + 12;
  for (const Series& s : f.series) {
    std::string path;
    for (const auto& [px, py] : s.points) {
      if (!std::isfinite(px) || !std::isfinite(py)) continue;
      if (s.cloud)
        path += fmt::format("M{:.1f} {:.1f}h0", at_x(px), at_y(py));
      else
        path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", at_x(px), at_y(py));
    }
    out += fmt::format(
        "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" "
        "stroke-linecap=\"round\"{}/>",
        path, s.colour, s.cloud ? "2" : "1.6",
        s.cloud    ? " stroke-opacity=\"0.35\""
        : s.dashed ? " stroke-dasharray=\"5 4\""
                   : "");
    if (s.label.empty()) continue;
    out += fmt::format(
        "<line x1=\"{0}\" x2=\"{1}\" y1=\"{2}\" y2=\"{2}\" stroke=\"{3}\" stroke-width=\"2\"{4}/>"
        "<text x=\"{5}\" y=\"{6}\">{7}</text>",
        f.width, f.width + 18, key_y - 4, s.colour, s.dashed ? " stroke-dasharray=\"5 4\"" : "",
        f.width + 22, key_y, escape_html(s.label));
    key_y += 14;
  }
  return out + "</svg>";
}

}  // namespace cortex::train
