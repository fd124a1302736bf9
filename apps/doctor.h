#pragma once

#include <cortex/realtime.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench_decode.h"
#include "jitter.h"

namespace cortex {

/// ms within which an answer may be wanted.
inline constexpr std::array<double, 3> kDeadlinesMs = {10, 20, 50};

struct DoctorOptions {
  std::string device = "auto";
  /// Measuring ends about then; what was not measured by then says so.
  double seconds = 20;
};

/// One preset in one precision, with random weights: a step of 40 events behind a full context, or
/// a window of 512 events, alone.
struct PresetTiming {
  std::string preset;
  std::string kind;  ///< "stream" or "window"
  std::string precision;
  std::int64_t parameters = 0;
  int threads = 1;
  std::optional<Timing> timing = {};  ///< nothing: no time was left

  /// Whether the slowest hundredth of its forwards (of few: the slowest) and a stall of `stall_us`
  /// are over within a deadline.
  bool fits(double deadline_ms, double stall_us) const;
};

struct DoctorReport {
  std::vector<std::string> isas;  ///< of the CPU, best first
  std::string cpu_backend;        ///< what computes on it
  std::string gpu;                ///< its name; empty: none
  std::string no_gpu;             ///< why
  std::string device;             ///< what the presets were measured on
  std::vector<RealtimeGrant> realtime;
  JitterReport jitter;  ///< of stream-nano in real-time mode
  std::vector<PresetTiming> presets;

  /// What the machine itself takes away from one idle spin in a thousand.
  double stall_us() const { return jitter.idle.p999_us - jitter.idle.p50_us; }
  /// The preset of a kind with the most parameters, in its widest precision, that fits; null: none.
  const PresetTiming* best(const std::string& kind, double deadline_ms) const;
};

/// invalid_argument or unavailable: the device.
Result<DoctorReport> examine(const DoctorOptions& options);

std::string doctor_text(const DoctorReport& report);
/// One JSON object, without a newline.
std::string doctor_json(const DoctorReport& report);

}  // namespace cortex
