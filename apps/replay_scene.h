#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "braille_canvas.h"
#include "replay_trace.h"
#include "telemetry/metrics.h"

namespace cortex {

struct ViewLabels {
  std::string recording;
  DecoderInfo decoder;
  std::vector<std::string> trial_names;  ///< by index into the recording's trials
  double deadline_ms = 0;
};

/// Frames of a running replay: raster of the last two seconds, true and decoded cursor, latency.
/// Reads only the rows of the trace that are done.
class ReplayScene {
 public:
  ReplayScene(const ReplayTrace& trace, ViewLabels labels);

  /// Takes in the steps that were done since the last call.
  void advance();
  /// The lines of one frame, at most `rows` of them and `columns` wide, with escape sequences.
  std::vector<std::string> frame(int columns, int rows) const;
  /// One plain line.
  std::string progress() const;

 private:
  struct Point {
    double x = 0;
    double y = 0;
  };
  double running_r2() const;
  void draw_raster(BrailleCanvas& canvas) const;
  void draw_cursor(BrailleCanvas& canvas) const;
  std::string trial_bar(int columns) const;
  std::string sparkline(int columns) const;
  std::string latency_line() const;
  std::string state_line() const;

  const ReplayTrace& trace_;
  const ViewLabels labels_;
  std::int64_t seen_ = 0;
  LatencyHistogram latency_;
  std::int64_t missed_ = 0;
  std::int64_t scored_ = 0;
  std::vector<double> sum_, sum_squares_, residual_;  // of the target, a dimension each
  std::int32_t trial_ = -1;                           // last trial entered
  std::vector<Point> true_path_, decoded_path_;       // since that trial's start
  double reach_ = 0;                                  // half the side of the cursor's box
};

}  // namespace cortex
