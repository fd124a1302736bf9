#include <CLI/CLI.hpp>

#include "train_commands.h"

namespace cortex {

void add_data_flags(CLI::App& command, train::DataOptions& data, bool steps) {
  command.add_option("--nwb", data.nwb, "Recording(s) with the same units, comma separated")
      ->required()
      ->delimiter(',');
  command
      .add_option("--target", data.target,
                  "What to decode: auto, the end of a series' path, or velocity:PATH of a position")
      ->capture_default_str();
  command
      .add_option("--units", data.units,
                  "Which units: terms joined by commas, e.g. held-in,rate>=0.5 (docs/data.md)")
      ->capture_default_str();
  // Where trials are scored alone, --split says which.
  command.add_option(
      steps ? "--split,--split-by" : "--split-by", data.split_by,
      "Trials' split: a fraction for val or a column (default: the file's, else 0.2)");
  if (!steps) return;
  command.add_option("--bin-ms", data.bin_ms, "Width of an event's bin")->capture_default_str();
  command.add_option("--step-ms", data.step_ms, "A whole multiple of --bin-ms")
      ->capture_default_str();
  command.add_option("--target-offset-ms", data.target_offset_ms,
                     "Target time minus the end of its step (default: the step's centre)");
}

void add_device_flags(CLI::App& command, std::string& device, int& threads) {
  command.add_option("--device", device, "auto, cpu, cuda or cuda:N")->capture_default_str();
  command.add_option("--threads", threads, "CPU threads; 0: all cores")->capture_default_str();
}

void write_numbers(JsonWriter& json, const char* key, const std::vector<double>& values) {
  json.key(key).begin_array();
  for (const double v : values) json.value(v);
  json.end_array();
}

}  // namespace cortex
