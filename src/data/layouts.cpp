#include "data/layouts.h"

#include <algorithm>
#include <string_view>

namespace cortex {
namespace {

constexpr const char* kTestFile = "the benchmark's test file, which has no behaviour";

constexpr Layout maze(const char* name, const char* title, double lag_ms, const char* tested_on) {
  return {
      name, title,    "behavior/hand_vel", "", lag_ms, std::nullopt, "move_onset_time", -250, 450,
      true, tested_on};
}

constexpr Layout kLayouts[] = {
    maze("mc_maze", "MC_Maze", 100, kTestFile),
    maze("mc_maze_large", "MC_Maze Large", 120, ""),
    maze("mc_maze_medium", "MC_Maze Medium", 120, ""),
    maze("mc_maze_small", "MC_Maze Small", 120, kTestFile),
    {"mc_rtt", "MC_RTT", "behavior/finger_vel", "", 140, std::nullopt, "start_time", 0, 600, true,
     ""},
    {"area2_bump", "Area2_Bump", "behavior/hand_vel", "", -20, std::nullopt, "move_onset_time",
     -100, 500, true, ""},
    // Muscle activity, a series a muscle, at the ends of bins.
    {"falcon_m1", "FALCON M1", "acquisition/preprocessed_emg", "acquisition/eval_mask", 0, 0.0, "",
     0, 0, false, ""},
    // Finger velocities, a series a finger group, at the starts of bins.
    {"falcon_m2", "FALCON M2", "acquisition/finger_vel", "acquisition/eval_mask", 0, -20.0, "", 0,
     0, false, ""},
};

const Layout* named(std::string_view name) {
  const auto* found = std::find_if(std::begin(kLayouts), std::end(kLayouts),
                                   [&](const Layout& layout) { return layout.name == name; });
  return found == std::end(kLayouts) ? nullptr : found;
}

bool has_series_under(const Recording& recording, std::string_view group) {
  return std::any_of(recording.behavior.begin(), recording.behavior.end(),
                     [&](const BehaviorSeries& series) { return series.path.starts_with(group); });
}

}  // namespace

std::span<const Layout> layouts() { return kLayouts; }

const Layout* find_layout(const Recording& recording) {
  if (has_series_under(recording, "/acquisition/preprocessed_emg/")) return named("falcon_m1");
  if (has_series_under(recording, "/acquisition/finger_vel/")) return named("falcon_m2");
  const std::string& subject = recording.subject_id;
  if (subject == "Jenkins") {
    const std::string& session = recording.session_id;
    return named(session == "full" ? "mc_maze" : "mc_maze_" + session);
  }
  if (subject == "Indy" && recording.find_behavior("finger_vel") != nullptr) return named("mc_rtt");
  const bool bumps =
      !recording.trials.empty() && recording.trials.front().columns.contains("ctr_hold_bump");
  if (subject == "Han" && bumps) return named("area2_bump");
  return nullptr;
}

}  // namespace cortex
