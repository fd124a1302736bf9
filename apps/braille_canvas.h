#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace cortex {

/// ANSI colours by their SGR number; `plain` leaves the terminal's own.
enum class Ink : std::uint8_t {
  plain = 0,
  red = 31,
  green = 32,
  yellow = 33,
  cyan = 36,
  grey = 90
};

/// A grid of terminal cells, each of 2 x 4 braille dots or one character over them.
class BrailleCanvas {
 public:
  BrailleCanvas(int columns, int rows);

  int columns() const { return columns_; }
  int rows() const { return rows_; }
  int width() const { return columns_ * 2; }
  int height() const { return rows_ * 4; }

  /// Sets a dot; outside the canvas nothing happens. The last ink of a cell is the cell's.
  void dot(int x, int y, Ink ink);
  /// A straight line of dots.
  void line(int x0, int y0, int x1, int y1, Ink ink);
  /// Puts a character (UTF-8) over the cell that holds dot (x, y).
  void mark(int x, int y, const char* glyph, Ink ink);
  /// One row of cells, with escape sequences.
  std::string row(int index) const;

 private:
  struct Cell {
    std::uint8_t dots = 0;
    Ink ink = Ink::plain;
    const char* glyph = nullptr;
  };
  Cell* cell_at(int x, int y);

  int columns_;
  int rows_;
  std::vector<Cell> cells_;
};

}  // namespace cortex
