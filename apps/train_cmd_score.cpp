#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "core/file.h"
#include "train/ridge.h"
#include "train_commands.h"

namespace cortex {
namespace {

void run_evaluate(const train::EvaluateOptions& options, bool json) {
  const auto report = train::evaluate(options).value_or_throw();
  if (!json) {
    std::cout << "r2 " << report.r2 << " over " << report.steps << " steps (" << report.protocol
              << ")\n";
    for (std::size_t i = 0; i < report.r2_per_dim.size(); ++i)
      std::cout << "  " << report.output_names[i] << " " << report.r2_per_dim[i] << "\n";
    return;
  }
  JsonWriter w;
  w.begin_object().key("r2").value(report.r2);
  write_numbers(w, "r2_per_dim", report.r2_per_dim);
  w.key("steps").value(report.steps).key("model").value(report.model);
  w.key("split").value(options.split).key("protocol").value(report.protocol);
  std::cout << w.end_object().text() << "\n";
}

void run_ridge(const train::RidgeOptions& options, bool json) {
  const auto report = train::ridge(options).value_or_throw();
  if (!json) {
    std::cout << "r2 " << report.r2 << " over " << report.steps << " steps, " << options.lags
              << " lags, alpha " << report.alpha << "\n";
    return;
  }
  JsonWriter w;
  w.begin_object().key("r2").value(report.r2);
  write_numbers(w, "r2_per_dim", report.r2_per_dim);
  w.key("steps").value(report.steps).key("lags").value(options.lags);
  w.key("alpha").value(report.alpha).key("inner_r2").value(report.inner_r2);
  std::cout << w.end_object().text() << "\n";
}

}  // namespace

void add_evaluate(CLI::App& app) {
  auto* command = app.add_subcommand("evaluate", "Score a model on a recording, causally");
  auto options = std::make_shared<train::EvaluateOptions>();
  auto json = std::make_shared<bool>(false);
  command->add_option("--model", options->model, "Model file")->required();
  add_data_flags(*command, options->data, false);
  command->add_option("--split", options->split, "Trials to score, comma separated, or all")
      ->capture_default_str();
  command
      ->add_option("--step-ms", options->data.step_ms, "How often a window decoder's windows end")
      ->capture_default_str();
  command->add_flag("--reset-each-trial", options->reset_each_trial,
                    "The other protocol: nothing before a trial is known");
  add_device_flags(*command, options->device, options->threads);
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer("Example:\n  cortex-train evaluate --model model.safetensors --nwb session.nwb");
  command->callback([options, json] { run_evaluate(*options, *json); });
}

void add_ridge(CLI::App& app) {
  auto* command = app.add_subcommand("ridge", "Ridge regression with lags: the floor to clear");
  auto options = std::make_shared<train::RidgeOptions>();
  auto json = std::make_shared<bool>(false);
  add_data_flags(*command, options->data, true);
  command->add_option("--eval-nwb", options->eval_nwb, "Score on these recordings instead")
      ->delimiter(',');
  command->add_option("--lags", options->lags, "Steps of counts, the present one included")
      ->capture_default_str();
  command->add_option("--split-train", options->data.train_split, "Trials to fit")
      ->capture_default_str();
  command->add_option("--split-val", options->data.val_split, "Trials to score")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0: all cores")
      ->capture_default_str();
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer("Example:\n  cortex-train ridge --nwb session.nwb --lags 15");
  command->callback([options, json] { run_ridge(*options, *json); });
}

void add_reference(CLI::App& app) {
  auto* command = app.add_subcommand(
      "reference", "Decode a recording in float64, step by step as the definition reads");
  auto options = std::make_shared<train::EvaluateOptions>();
  auto steps = std::make_shared<std::int64_t>(200);
  auto out = std::make_shared<std::string>();
  auto json = std::make_shared<bool>(false);
  options->split = "all";
  command->add_option("--model", options->model, "Model file")->required();
  add_data_flags(*command, options->data, false);
  command->add_option("--steps", *steps, "Steps from the start of the recording")
      ->capture_default_str();
  command->add_option("--out", *out, "JSON file to write")->required();
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer(
      "Example:\n  cortex-train reference --model model.safetensors --nwb session.nwb --steps 200 "
      "--out reference.json");
  command->callback([options, steps, out, json] {
    const std::string text = train::reference_outputs(*options, *steps).value_or_throw();
    write_file_atomic(*out, std::as_bytes(std::span(text.data(), text.size()))).value_or_throw();
    JsonWriter w;
    w.begin_object().key("out").value(*out).key("steps").value(*steps).end_object();
    if (*json) std::cout << w.text() << "\n";
  });
}

}  // namespace cortex
