#pragma once

#include <string>
#include <utility>
#include <vector>

namespace cortex::train {

/// A line or a cloud of points, in the figure's units.
struct Series {
  std::string label;  ///< empty: not in the key
  std::string colour;
  std::vector<std::pair<double, double>> points;
  bool cloud = false;
  bool dashed = false;
};

/// One plot as SVG.
struct Figure {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  int width = 380;  ///< without the key
  int height = 280;
};
std::string to_svg(const Figure& figure);

/// A colour that tells series apart, also for most who see colours poorly (Okabe and Ito 2008).
std::string series_colour(std::size_t index);

/// `text` inside HTML.
std::string escape_html(const std::string& text);

}  // namespace cortex::train
