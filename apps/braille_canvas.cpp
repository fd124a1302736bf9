#include "braille_canvas.h"

#include <algorithm>
#include <cstdlib>

namespace cortex {
namespace {

// Bit of the dot at column x & 1, row y & 3 in a braille character (U+2800 + bits).
constexpr std::uint8_t kDotBits[2][4] = {{0x01, 0x02, 0x04, 0x40}, {0x08, 0x10, 0x20, 0x80}};

std::string braille(std::uint8_t dots) {
  return {static_cast<char>(0xE2), static_cast<char>(0xA0 | (dots >> 6)),
          static_cast<char>(0x80 | (dots & 0x3F))};
}

}  // namespace

BrailleCanvas::BrailleCanvas(int columns, int rows)
    : columns_(std::max(columns, 0)),
      rows_(std::max(rows, 0)),
      cells_(static_cast<std::size_t>(columns_) * static_cast<std::size_t>(rows_)) {}

BrailleCanvas::Cell* BrailleCanvas::cell_at(int x, int y) {
  if (x < 0 || y < 0 || x >= width() || y >= height()) return nullptr;
  const auto row = static_cast<std::size_t>(y / 4), column = static_cast<std::size_t>(x / 2);
  return &cells_[row * static_cast<std::size_t>(columns_) + column];
}

void BrailleCanvas::dot(int x, int y, Ink ink) {
  if (Cell* cell = cell_at(x, y)) {
    cell->dots |= kDotBits[x & 1][y & 3];
    cell->ink = ink;
  }
}

void BrailleCanvas::line(int x0, int y0, int x1, int y1, Ink ink) {
  const int longest = std::max(std::abs(x1 - x0), std::abs(y1 - y0));
  // A jump of more than the canvas is an outlier, not a path.
  if (longest > 2 * (width() + height())) return dot(x1, y1, ink);
  for (int i = 0; i <= longest; ++i) {
    const double part = longest == 0 ? 0.0 : static_cast<double>(i) / longest;
    dot(static_cast<int>(x0 + part * (x1 - x0)), static_cast<int>(y0 + part * (y1 - y0)), ink);
  }
}

void BrailleCanvas::mark(int x, int y, const char* glyph, Ink ink) {
  if (Cell* cell = cell_at(x, y)) {
    cell->glyph = glyph;
    cell->ink = ink;
  }
}

std::string BrailleCanvas::row(int index) const {
  std::string text;
  Ink current = Ink::plain;
  for (int c = 0; c < columns_; ++c) {
    const Cell& cell = cells_[static_cast<std::size_t>(index) * static_cast<std::size_t>(columns_) +
                              static_cast<std::size_t>(c)];
    const bool blank = cell.glyph == nullptr && cell.dots == 0;
    if (!blank && cell.ink != current) {
      text += "\x1b[" + std::to_string(static_cast<int>(cell.ink)) + "m";
      current = cell.ink;
    }
    if (cell.glyph != nullptr) {
      text += cell.glyph;
    } else {
      text += blank ? std::string(" ") : braille(cell.dots);
    }
  }
  if (current != Ink::plain) text += "\x1b[0m";
  return text;
}

}  // namespace cortex
