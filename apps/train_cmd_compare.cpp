#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "core/file.h"
#include "train/compare.h"
#include "train_commands.h"

namespace cortex {
namespace {

void write_text(const std::string& path, const std::string& text) {
  write_file_atomic(path, std::as_bytes(std::span(text.data(), text.size()))).value_or_throw();
}

void run_compare(const train::CompareOptions& options, const std::string& page, bool json) {
  const auto progress = [&](const std::string& what) {
    if (!options.training.quiet) std::cerr << "cortex-train: " << what << "\n";
  };
  if (options.data.fold >= 0) {
    train::fit_fold(options, progress).value_or_throw();
    return;
  }
  const train::CompareReport report = train::compare(options, progress).value_or_throw();
  const std::string text = train::compare_json(report, options);
  write_text(options.run_dir + "/compare.json", text + "\n");
  if (!page.empty()) write_text(page, train::compare_page(report, options));
  if (json) {
    std::cout << text << "\n";
    return;
  }
  std::printf("%-14s %8s  %-20s %8s  %s\n", "decoder", "r2", "95 % interval", "reset",
              report.best_baseline.empty() ? "" : ("minus " + report.best_baseline).c_str());
  for (const train::CompareRow& row : report.rows)
    std::printf("%-14s %8.4f  %.4f to %.4f     %8.4f  %+.4f (%+.4f to %+.4f)\n", row.name.c_str(),
                row.score.mean, row.interval.low, row.interval.high, row.reset.mean,
                row.difference.difference, row.difference.low, row.difference.high);
}

}  // namespace

void add_compare(CLI::App& app) {
  auto* command = app.add_subcommand(
      "compare", "Decoders under the same folds and budget, in a table and a page");
  auto options = std::make_shared<train::CompareOptions>();
  auto protocol = std::make_shared<ProtocolFlags>();
  auto page = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  protocol->folds = 5;
  train::CompareOptions& o = *options;
  o.training.quiet = true;
  add_data_flags(*command, o.data, true);
  add_protocol_flags(*command, *protocol, o.data);
  command->add_option("--models", o.models, "ridge, kalman, gru, transformer, possm, presets")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--run", o.run_dir, "Folder of the fitted models; goes on where it stopped")
      ->required();
  command->add_option("--report", *page, "HTML page to write");
  command->add_option("--lags", o.lags, "Ridge: steps of counts")->capture_default_str();
  command->add_option("--minutes", o.training.minutes, "Of every network, a fold");
  command->add_option("--iterations", o.training.iterations, "Or updates (default 3000)");
  command
      ->add_option("--crop-steps", o.training.crop_steps,
                   "Of every network: steps of a crop, warm-up included; 0: by the model")
      ->capture_default_str();
  command->add_option("--eval-every", o.training.eval_every, "Updates between points of a curve")
      ->capture_default_str();
  command->add_option("--seed", o.training.seed, "Of every network")->capture_default_str();
  command->add_option("--resamples", o.resamples, "Draws of trials")->capture_default_str();
  add_device_flags(*command, o.training.device, o.training.threads);
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer(
      "Example:\n  cortex-train compare --nwb session.nwb --folds 5 --minutes 2 --run compared "
      "--report compared.html");
  command->callback([options, protocol, page, json] {
    train::CompareOptions final_options = *options;
    final_options.data = with_protocol(*protocol, final_options.data);
    if (final_options.training.minutes == 0 && final_options.training.iterations == 0)
      final_options.training.iterations = 3000;
    run_compare(final_options, *page, *json);
  });
}

}  // namespace cortex
