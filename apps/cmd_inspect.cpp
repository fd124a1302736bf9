#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "commands.h"
#include "core/json_writer.h"
#include "data/nwb.h"
#include "data/statistics.h"
#include "inspect_advice.h"
#include "inspect_drift.h"
#include "inspect_model.h"

namespace cortex {
namespace {

/// HDF5's signature stands at byte 0 or, behind a user block, at 512 or a doubling of it.
bool is_hdf5(const std::string& path) {
  static constexpr char kSignature[] = "\x89HDF\r\n\x1a\n";
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  if (!std::filesystem::exists(status))
    throw Exception{{ErrorCode::not_found, path + ": no such file", "file"}};
  if (!std::filesystem::is_regular_file(status))
    throw Exception{{ErrorCode::invalid_argument, path + ": not a regular file", "file"}};
  std::ifstream file(path, std::ios::binary);
  if (!file) throw Exception{{ErrorCode::io_error, path + ": cannot open", "file"}};
  const auto size = static_cast<std::streamoff>(std::filesystem::file_size(path));
  for (std::streamoff at = 0; at + 8 <= size; at = at == 0 ? 512 : at * 2) {
    char bytes[8] = {};
    file.seekg(at);
    if (file.read(bytes, 8) && std::memcmp(bytes, kSignature, 8) == 0) return true;
  }
  return false;
}

struct Summary {
  std::int64_t held_out = 0;
  std::int64_t on_electrodes = 0;
  std::map<std::string, std::int64_t> splits;
};

Summary summarize(const Recording& recording) {
  Summary summary;
  for (const Unit& unit : recording.units) {
    summary.held_out += unit.held_out ? 1 : 0;
    summary.on_electrodes += unit.electrode ? 1 : 0;
  }
  for (const Trial& trial : recording.trials)
    ++summary.splits[trial.split.empty() ? "none" : trial.split];
  return summary;
}

void write_spread(JsonWriter& w, const char* name, const std::optional<Spread>& spread) {
  w.key(name);
  if (!spread) {
    w.null();
    return;
  }
  w.begin_object().key("p5").value(spread->p5).key("median").value(spread->median);
  w.key("p95").value(spread->p95).end_object();
}

std::string as_json(const Recording& r, const Summary& summary, const RecordingStatistics& s,
                    const TrainAdvice& advice) {
  JsonWriter w;
  w.begin_object().key("path").value(r.path).key("kind").value("nwb");
  w.key("nwb_version").value(r.nwb_version).key("identifier").value(r.identifier);
  w.key("session_id").value(r.session_id).key("subject_id").value(r.subject_id);
  w.key("description").value(r.description);
  w.key("units").value(r.units.size()).key("held_out_units").value(summary.held_out);
  w.key("spikes").value(r.spike_count()).key("electrodes").value(r.electrodes.size());
  w.key("units_with_electrode").value(summary.on_electrodes);
  w.key("trials").value(r.trials.size()).key("trials_by_split").begin_object();
  for (const auto& [split, count] : summary.splits) w.key(split).value(count);
  w.end_object();
  w.key("session_start_s").value(s.session.start_s).key("session_stop_s").value(s.session.stop_s);
  w.key("observed_s").value(s.observed_s).key("gaps").value(s.gaps);
  w.key("longest_gap_s").value(s.longest_gap_s);
  w.key("statistics").begin_object();
  w.key("mean_rate_hz").value(s.mean_rate_hz);
  write_spread(w, "rate_hz", s.rate_hz);
  write_spread(w, "fano_200ms", s.fano);
  write_spread(w, "drift_per_10min", s.drift_per_10min);
  write_spread(w, "trial_s", s.trial_s);
  write_spread(w, "speed_mm_s", s.speed_mm_s);
  w.key("speed_p99_mm_s");
  s.speed_p99_mm_s ? w.value(*s.speed_p99_mm_s) : w.null();
  w.end_object();
  w.key("behavior").begin_array();
  for (std::size_t i = 0; i < r.behavior.size(); ++i) {
    const BehaviorSeries& series = r.behavior[i];
    w.begin_object().key("name").value(series.name).key("path").value(series.path);
    w.key("unit").value(series.unit).key("conversion").value(series.conversion);
    w.key("dims").value(series.dims).key("samples").value(series.times_s.size());
    w.key("sample_hz").value(s.series[i].sample_hz).key("gaps").value(s.series[i].gaps);
    w.key("start_s").value(s.series[i].start_s).key("stop_s").value(s.series[i].stop_s);
    w.end_object();
  }
  w.end_array().key("layout").value(advice.layout);
  w.key("notes").begin_array();
  for (const std::string& note : advice.notes) w.value(note);
  w.end_array().key("train").value(advice.command);
  w.key("why_not").value(advice.why_not).end_object();
  return w.text();
}

std::string show(const Spread& spread) {
  return fmt::format("{:>8.3g} {:>8.3g} {:>8.3g}", spread.p5, spread.median, spread.p95);
}

void print_for_a_person(const Recording& r, const Summary& summary, const RecordingStatistics& s,
                        const TrainAdvice& advice) {
  const auto line = [](const char* name, const std::string& value) {
    if (!value.empty()) fmt::print("  {:<22} {}\n", name, value);
  };
  const auto row = [&](const char* name, const std::optional<Spread>& spread) {
    if (spread) line(name, show(*spread));
  };
  fmt::print("{}: NWB {}\n", r.path, r.nwb_version);
  line("identifier", r.identifier);
  line("session", r.session_id);
  line("subject", r.subject_id);
  line("description", r.description);
  line("units", fmt::format("{} ({} held out), {} spikes", r.units.size(), summary.held_out,
                            r.spike_count()));
  if (!r.electrodes.empty())
    line("electrodes",
         fmt::format("{}, {} units name theirs", r.electrodes.size(), summary.on_electrodes));
  std::string splits;
  for (const auto& [split, count] : summary.splits)
    splits += fmt::format("{}{} {}", splits.empty() ? "" : ", ", count, split);
  line("trials", splits.empty() ? "none" : fmt::format("{} ({})", r.trials.size(), splits));
  line("session time", fmt::format("{:g} s to {:g} s", s.session.start_s, s.session.stop_s));
  line("observed", s.gaps == 0 ? fmt::format("{:.1f} s without a gap", s.observed_s)
                               : fmt::format("{:.1f} s with {} gaps of up to {:.3g} s",
                                             s.observed_s, s.gaps, s.longest_gap_s));
  for (std::size_t i = 0; i < r.behavior.size(); ++i) {
    const BehaviorSeries& series = r.behavior[i];
    line(series.name.c_str(),
         fmt::format("{} x {} {}, {:.4g} Hz, {} gaps", series.times_s.size(), series.dims,
                     series.unit.empty() ? "(no unit)" : series.unit, s.series[i].sample_hz,
                     s.series[i].gaps));
  }
  fmt::print("\n  {:<22} {:>8} {:>8} {:>8}\n", "statistics", "p5", "median", "p95");
  line("rate, spikes/s", fmt::format("{}  mean {:.3g}", show(s.rate_hz), s.mean_rate_hz));
  row("Fano factor, 200 ms", s.fano);
  row("drift per 10 min", s.drift_per_10min);
  row("trial length, s", s.trial_s);
  if (s.speed_mm_s)
    line("speed in trials, mm/s",
         fmt::format("{}  p99 {:.3g}", show(*s.speed_mm_s), *s.speed_p99_mm_s));
  fmt::print("\n");
  for (const std::string& note : advice.notes) fmt::print("  {}\n", note);
  if (advice.command.empty())
    fmt::print("  not to be trained on: {}\n", advice.why_not);
  else
    fmt::print("  train on it with\n    {}\n", advice.command);
}

void inspect_recording(const std::string& path, bool json) {
  const Recording recording = read_nwb(path).value_or_throw();
  const RecordingStatistics statistics = describe(recording);
  const Summary summary = summarize(recording);
  const TrainAdvice advice = advise(recording);
  if (json)
    fmt::print("{}\n", as_json(recording, summary, statistics, advice));
  else
    print_for_a_person(recording, summary, statistics, advice);
}

}  // namespace

void add_inspect(CLI::App& app) {
  struct Flags {
    std::string file;
    std::string drift;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("inspect", "Describe a recording (NWB) or a model file.");
  command->add_option("file", flags->file, "NWB recording, or safetensors model")->required();
  command->add_option("--drift", flags->drift,
                      "model, or recording of another day: how far the units of FILE have moved "
                      "from its own");
  command->add_flag("--json", flags->json, "print one JSON object");
  command->footer(
      "Example:\n"
      "  cortex inspect session.nwb\n"
      "  cortex inspect model.safetensors --json\n"
      "  cortex inspect today.nwb --drift model.safetensors");
  command->callback([flags] {
    if (!flags->drift.empty()) {
      if (!is_hdf5(flags->file))
        throw Exception{{ErrorCode::invalid_argument,
                         flags->file + ": not a recording (NWB), which --drift looks at", "file"}};
      inspect_drift(flags->file, flags->drift, is_hdf5(flags->drift), flags->json);
      return;
    }
    is_hdf5(flags->file) ? inspect_recording(flags->file, flags->json)
                         : inspect_model(flags->file, flags->json);
  });
}

}  // namespace cortex
