#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "train_commands.h"

namespace cortex {
namespace {

void run_pretrain(const train::TrainOptions& options, bool json) {
  const auto report = train::pretrain(options).value_or_throw();
  say_if_stopped(report);
  if (!json) {
    if (!report.complete) return;
    std::cout << "pretrained  " << report.model << "\nbits/spike  " << report.r2
              << " on units that are not heard, iteration " << report.best_iteration << " of "
              << report.iterations << "\ntime        " << report.seconds << " s, "
              << report.ms_per_iteration << " ms an iteration on " << report.device << "\n";
    return;
  }
  JsonWriter w;
  w.begin_object();
  write_run(w, report);
  w.key("bits_per_spike").value(report.r2);
  std::cout << w.end_object().text() << "\n";
}

}  // namespace

void add_pretrain(CLI::App& app) {
  auto* command = app.add_subcommand(
      "pretrain", "Learn recordings' spikes, without behaviour, for train --init to start from");
  auto options = std::make_shared<train::TrainOptions>();
  auto hiding = std::make_shared<train::HidingOptions>();
  auto json = std::make_shared<bool>(false);
  train::TrainOptions& o = *options;
  // What is hidden varies the input already.
  o.unit_dropout = o.thinning = 0;
  o.fresh_starts = 0;
  command->add_option("--preset", o.preset, "stream-nano|deep|xs|s|m")->capture_default_str();
  add_data_flags(*command, o.data, true);
  add_run_flags(*command, o);
  command->add_option("--mask-units", hiding->units, "Share of units that a crop hides throughout")
      ->capture_default_str();
  command->add_option("--mask-bins", hiding->bins, "Share of the other units' bins that are hidden")
      ->capture_default_str();
  add_device_flags(*command, o.device, o.threads);
  add_model_flags(*command, o.model);
  add_learning_flags(*command, o);
  command->add_flag("--quiet", o.quiet, "No progress lines");
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer(
      "Units that a recording marks as held out are always hidden: cortex-train evaluate "
      "--protocol nlb scores them (co-bps).\n"
      "Example:\n  cortex-train pretrain --preset stream-nano --nwb monday.nwb,tuesday.nwb "
      "--units-by session --out pretrained.safetensors --minutes 10");
  command->callback([options, hiding, json] {
    train::TrainOptions final_options = *options;
    final_options.hiding = *hiding;
    if (final_options.data.val_split == "none") final_options.data.val_split.clear();
    run_pretrain(final_options, *json);
  });
}

}  // namespace cortex
