#include <CLI/CLI.hpp>
#include <iostream>

#include "train_commands.h"

namespace cortex {

void add_data_flags(CLI::App& command, train::DataOptions& data, bool steps) {
  const auto flag = [&](const char* name, auto& into, const char* help) {
    return command.add_option(name, into, help)->group(kDataGroup);
  };
  flag("--nwb", data.nwb, "Recording(s), comma separated")->required()->delimiter(',');
  flag("--target", data.target,
       "What to decode: auto, the end of a series' path, or velocity:PATH of a position")
      ->capture_default_str();
  flag("--units", data.units,
       "Which units: terms joined by commas, e.g. held-in,rate>=0.5 (docs/data.md)")
      ->capture_default_str();
  // Where trials are scored alone, --split says which.
  flag(steps ? "--split,--split-by" : "--split-by", data.split_by,
       "Trials' split: a fraction for val or a column (default: the file's, else 0.2)");
  if (!steps) return;
  flag("--bin-ms", data.bin_ms, "Width of an event's bin")->capture_default_str();
  flag("--step-ms", data.step_ms, "A whole multiple of --bin-ms")->capture_default_str();
  flag("--target-offset-ms", data.target_offset_ms,
       "Target time minus the end of its step (default: the step's centre)");
}

void add_protocol_flags(CLI::App& command, ProtocolFlags& flags, train::DataOptions& data) {
  const auto flag = [&](const char* name, auto& into, const char* help) {
    return command.add_option(name, into, help)->group("Protocol");
  };
  flag(
      "--protocol", flags.protocol,
      "causal: every step of a trial; onset: the velocity at movement onset; nlb: a span around it")
      ->capture_default_str();
  flag("--align", data.protocol.align, "onset, nlb: column of trials that holds the onset")
      ->capture_default_str();
  flag("--from-ms", data.protocol.from_ms, "nlb: start of the span")->capture_default_str();
  flag("--to-ms", data.protocol.to_ms, "nlb: end of the span")->capture_default_str();
  flag("--lag-ms", data.protocol.lag_ms, "nlb: how much later than the span behaviour is scored")
      ->capture_default_str();
  flag("--folds", flags.folds,
       "Cross-validation over this many folds instead of the file's splits");
  flag("--fold", flags.fold, "One of them, from 0: its trials are the split 'test'");
  flag("--fold-scheme", flags.scheme, "trial: dealt at random; block: runs of trials in time")
      ->capture_default_str();
  flag("--fold-guard", flags.guard_s,
       "Seconds from a tested trial within which none is trained on (trial: 0, block: 1)");
  flag("--fold-seed", flags.seed, "Of the deal")->capture_default_str();
  flag("--fold-splits", flags.splits, "Trials of the file that take part, comma separated, or all")
      ->capture_default_str();
}

train::DataOptions with_protocol(const ProtocolFlags& flags, train::DataOptions data) {
  data.protocol.protocol = parse_protocol(flags.protocol).value_or_throw();
  if (flags.folds == 0) {
    if (flags.fold >= 0) throw CLI::ValidationError("--fold", "of how many? Give --folds as well");
    return data;
  }
  FoldOptions folds;
  folds.folds = flags.folds;
  folds.scheme = parse_fold_scheme(flags.scheme).value_or_throw();
  folds.guard_s = flags.guard_s.value_or(folds.scheme == FoldScheme::block ? 1.0 : 0.0);
  folds.seed = flags.seed;
  folds.splits = flags.splits;
  data.folds = folds;
  data.fold = flags.fold;
  return data;
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

void say_if_stopped(const train::TrainReport& report) {
  if (report.complete) return;
  std::cerr << "cortex-train: stopped at iteration " << report.iterations
            << "; --resume goes on from " << report.run_dir << "\n";
}

void write_run(JsonWriter& json, const train::TrainReport& report) {
  json.key("model").value(report.model).key("run").value(report.run_dir);
  json.key("complete").value(report.complete).key("iterations").value(report.iterations);
  json.key("best_iteration").value(report.best_iteration);
  json.key("parameters").value(report.parameters).key("seconds").value(report.seconds);
  json.key("ms_per_iteration").value(report.ms_per_iteration);
  json.key("median_ms").value(report.median_ms);
  json.key("device").value(report.device).key("ranks").value(report.ranks);
}

}  // namespace cortex
