#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>
#include <string>

#include "commands.h"
#include "core/json_writer.h"
#include "data/nwb.h"
#include "import/import.h"

namespace cortex {
namespace {

struct ImportFlags {
  std::string file;
  std::string out;
  ImportOptions options;
  bool json = false;
};

void run_import(const ImportFlags& flags) {
  const Recording recording = import_recording(flags.file, flags.options).value_or_throw();
  write_nwb(flags.out, recording).value_or_throw();
  if (flags.json) {
    JsonWriter w;
    w.begin_object().key("path").value(flags.out).key("units").value(recording.units.size());
    w.key("spikes").value(recording.spike_count()).key("trials").value(recording.trials.size());
    w.key("behavior").begin_array();
    for (const BehaviorSeries& series : recording.behavior) w.value(series.name);
    fmt::print("{}\n", w.end_array().end_object().text());
    return;
  }
  fmt::print("{}: {} units, {} spikes, {} trials, {} behaviour series\n", flags.out,
             recording.units.size(), recording.spike_count(), recording.trials.size(),
             recording.behavior.size());
}

}  // namespace

void add_import(CLI::App& app) {
  auto flags = std::make_shared<ImportFlags>();
  CLI::App* command = app.add_subcommand(
      "import", "Write an NWB file from events in CSV, MATLAB or Blackrock NEV.");
  command->add_option("file", flags->file, "spikes: .csv, .mat or .nev")->required();
  command->add_option("--out", flags->out, "NWB file to write")->required();
  command
      ->add_option("--behavior", flags->options.behavior,
                   "CSV file(s) of a series each, named after the file, comma separated")
      ->delimiter(',');
  command->add_option("--trials", flags->options.trials, "CSV file of trials");
  command
      ->add_option("--ignore", flags->options.ignore,
                   "MATLAB variables to leave out, comma separated")
      ->delimiter(',');
  command->add_flag("--json", flags->json, "print one JSON object");
  command->footer(
      "Columns and variables: docs/data.md.\n"
      "Example:\n"
      "  cortex import spikes.csv --behavior hand_vel.csv --trials trials.csv --out session.nwb");
  command->callback([flags] { run_import(*flags); });
}

}  // namespace cortex
