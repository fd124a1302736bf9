#include "inspect_advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "data/intervals.h"
#include "data/layouts.h"
#include "data/prepare.h"

namespace cortex {
namespace {

/// As a shell takes it for one word.
std::string shell_word(const std::string& word) {
  const bool plain = !word.empty() && word.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyz"
                                          "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_-+=./,:") == word.npos;
  if (plain) return word;
  std::string text = "'";
  for (const char c : word) text += c == '\'' ? "'\\''" : std::string(1, c);
  return text + "'";
}

/// 20 ms, or the spacing of the behaviour's samples where that is coarser, in whole milliseconds.
double step_for(const BehaviorSeries& series) {
  return std::max(20.0, std::ceil(median_period(series.times_s) * 1e3 - 1e-6));
}

std::string about(const Layout& layout) {
  std::string said = fmt::format("laid out as {}", layout.title);
  if (*layout.align != '\0')
    said += fmt::format(
        "; its benchmark scores {:g} to {:g} ms around {}, behaviour {:g} ms after "
        "spikes",
        layout.align_from_ms, layout.align_to_ms, layout.align, layout.lag_ms);
  return said + (*layout.tested_on == '\0'
                     ? "; this layout is untested: no genuine file was at hand"
                     : fmt::format("; tested on {}", layout.tested_on));
}

}  // namespace

TrainAdvice advise(Recording recording) {
  TrainAdvice advice;
  const Layout* layout = find_layout(recording);
  if (layout != nullptr) {
    advice.layout = layout->name;
    advice.notes.push_back(about(*layout));
  }
  const auto held_out =
      static_cast<std::size_t>(std::count_if(recording.units.begin(), recording.units.end(),
                                             [](const Unit& unit) { return unit.held_out; }));
  const std::string units = held_out > 0 && held_out < recording.units.size() ? "held-in" : "all";
  auto said = prepare(recording, {.target = "auto", .units = units, .split = ""});
  if (!said) {
    advice.why_not = said.error().message;
    return advice;
  }
  advice.notes.insert(advice.notes.end(), said->begin(), said->end());
  if (held_out > 0 && units == "held-in")
    advice.notes.push_back(fmt::format("{} held-out units are left out", held_out));
  const BehaviorSeries* target = recording.find_path(recording.target);
  const auto has = [&](const char* split) {
    return std::any_of(recording.trials.begin(), recording.trials.end(),
                       [&](const Trial& trial) { return trial.split == split; });
  };
  if (target == nullptr)
    advice.why_not = "there is no behaviour to learn from";
  else if (!has("train"))
    advice.why_not = "no trial is in split 'train'; --split-by can share the trials out";
  if (!advice.why_not.empty()) return advice;

  const double step_ms = step_for(*target);
  const std::string stem = std::filesystem::path(recording.path).stem().string();
  advice.command = fmt::format("cortex-train train --nwb {}", shell_word(recording.path));
  if (units != "all") advice.command += " --units " + units;
  if (!has("val")) advice.command += " --split-val none";
  if (step_ms != 20)
    advice.command += fmt::format(" --bin-ms {:g} --step-ms {:g}", step_ms, step_ms);
  if (layout != nullptr && layout->target_offset_ms)
    advice.command += fmt::format(" --target-offset-ms {:g}", *layout->target_offset_ms);
  advice.command += fmt::format(" --out {}", shell_word(stem + ".safetensors"));
  return advice;
}

}  // namespace cortex
