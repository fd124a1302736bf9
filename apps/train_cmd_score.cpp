#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "core/file.h"
#include "train/kalman.h"
#include "train/ridge.h"
#include "train_commands.h"

namespace cortex {
namespace {

void run_evaluate(const train::EvaluateOptions& options, bool json) {
  const auto report = train::evaluate(options).value_or_throw();
  const bool against = !options.against.empty();
  const PairedDifference& d = report.difference;
  if (!json && report.co_bps) {
    std::cout << "co-bps " << *report.co_bps << " over " << report.held_out_spikes << " spikes of "
              << report.held_out_units << " held-out units in " << report.steps << " steps of "
              << report.trials << " trials (" << report.protocol << ", " << report.clock
              << ", causal)\n";
    return;
  }
  if (!json) {
    std::cout << "r2 " << report.r2 << " [" << report.interval.low << ", " << report.interval.high
              << "] over " << report.steps << " steps of " << report.trials << " trials ("
              << report.protocol << ", " << report.clock << ")\n";
    for (std::size_t i = 0; i < report.r2_per_dim.size(); ++i)
      std::cout << "  " << report.output_names[i] << " " << report.r2_per_dim[i] << "\n";
    if (against)
      std::cout << "against " << options.against << ": " << report.against_r2 << ", difference "
                << d.difference << " [" << d.low << ", " << d.high << "], p " << d.p << "\n";
    return;
  }
  JsonWriter w;
  w.begin_object();
  if (report.co_bps) {
    w.key("co_bps").value(*report.co_bps).key("held_out_units").value(report.held_out_units);
    w.key("held_out_spikes").value(report.held_out_spikes);
  } else {
    w.key("r2").value(report.r2);
    write_numbers(w, "r2_per_dim", report.r2_per_dim);
    w.key("r2_low").value(report.interval.low).key("r2_high").value(report.interval.high);
  }
  w.key("steps").value(report.steps).key("trials").value(report.trials);
  w.key("unobserved_steps").value(report.unobserved).key("resamples").value(options.resamples);
  w.key("model").value(report.model);
  if (options.data.folds)
    w.key("folds").value(options.data.folds->folds).key("fold").value(options.data.fold);
  else
    w.key("split").value(options.split);
  w.key("protocol").value(report.protocol).key("clock").value(report.clock);
  if (against) {
    w.key("against").begin_object().key("model").value(options.against);
    w.key("r2").value(report.against_r2).key("difference").value(d.difference);
    w.key("low").value(d.low).key("high").value(d.high).key("p").value(d.p).end_object();
  }
  std::cout << w.end_object().text() << "\n";
}

void run_kalman(const train::KalmanOptions& options, bool json) {
  const auto report = train::kalman(options).value_or_throw();
  if (!json) {
    std::cout << "r2 " << report.r2 << " over " << report.steps << " steps, lead " << report.lead
              << " steps, forgets within " << report.memory_steps << " steps\n";
    return;
  }
  JsonWriter w;
  w.begin_object().key("r2").value(report.r2);
  write_numbers(w, "r2_per_dim", report.r2_per_dim);
  w.key("steps").value(report.steps).key("lead").value(report.lead);
  w.key("inner_r2").value(report.inner_r2).key("memory_steps").value(report.memory_steps);
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
  auto protocol = std::make_shared<ProtocolFlags>();
  add_protocol_flags(*command, *protocol, options->data);
  command->add_option("--target-offset-ms", options->data.target_offset_ms,
                      "Window decoders: target time minus the end of the window");
  command->add_option("--against", options->against,
                      "Another model, on the same trials: the difference with its interval");
  command->add_option("--resamples", options->resamples, "Draws of trials for the intervals")
      ->capture_default_str();
  command->add_option("--bootstrap-seed", options->bootstrap_seed, "Of these draws")
      ->capture_default_str();
  command->add_option("--units-kept", options->units_kept,
                      "Share of the units that is heard; the others are silenced at random");
  command->add_flag("--reset-each-trial", options->reset_each_trial,
                    "A separate row: nothing before a trial is known");
  add_device_flags(*command, options->device, options->threads);
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer(
      "With --folds 5 and no --fold, --model holds {fold} where the fold's number stands.\n"
      "Example:\n  cortex-train evaluate --model model.safetensors --nwb session.nwb");
  command->callback([options, protocol, json] {
    train::EvaluateOptions final_options = *options;
    final_options.data = with_protocol(*protocol, final_options.data);
    run_evaluate(final_options, *json);
  });
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
  command
      ->add_option("--smooth-ms", options->smooth_ms,
                   "Standard deviation of a Gaussian over the counts, which looks ahead: for nlb")
      ->capture_default_str();
  command->add_option("--split-train", options->data.train_split, "Trials to fit")
      ->capture_default_str();
  command->add_option("--split-val", options->data.val_split, "Trials to score")
      ->capture_default_str();
  command->add_option("--threads", options->threads, "CPU threads; 0: all cores")
      ->capture_default_str();
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->add_option("--out", options->out, "Servable model to write (up to 256 lags)");
  auto protocol = std::make_shared<ProtocolFlags>();
  add_protocol_flags(*command, *protocol, options->data);
  command->footer(
      "Example:\n  cortex-train ridge --nwb session.nwb --lags 15 --out ridge.safetensors");
  command->callback([options, protocol, json] {
    train::RidgeOptions final_options = *options;
    final_options.data = with_protocol(*protocol, final_options.data);
    if (final_options.data.fold >= 0) final_options.data.val_split = "test";
    run_ridge(final_options, *json);
  });
}

void add_kalman(CLI::App& app) {
  auto* command = app.add_subcommand("kalman", "Kalman filter: the classical decoder to clear");
  auto options = std::make_shared<train::KalmanOptions>();
  auto json = std::make_shared<bool>(false);
  add_data_flags(*command, options->data, true);
  command
      ->add_option("--leads", options->leads,
                   "Steps of behaviour to come in the state, of which the best is taken")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--split-train", options->data.train_split, "Trials to fit")
      ->capture_default_str();
  command->add_option("--split-val", options->data.val_split, "Trials to score, or none")
      ->capture_default_str();
  command->add_option("--out", options->out, "Servable model to write");
  command->add_option("--threads", options->threads, "CPU threads; 0: all cores")
      ->capture_default_str();
  auto protocol = std::make_shared<ProtocolFlags>();
  add_protocol_flags(*command, *protocol, options->data);
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer("Example:\n  cortex-train kalman --nwb session.nwb --out kalman.safetensors");
  command->callback([options, protocol, json] {
    train::KalmanOptions final_options = *options;
    final_options.data = with_protocol(*protocol, final_options.data);
    if (final_options.data.fold >= 0) final_options.data.val_split = "test";
    if (final_options.data.val_split == "none") final_options.data.val_split.clear();
    run_kalman(final_options, *json);
  });
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
