#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "train/adapt.h"
#include "train_commands.h"

namespace cortex {
namespace {

std::string as_json(const train::AdaptReport& report, const train::AdaptOptions& options) {
  JsonWriter w;
  w.begin_object().key("model").value(options.out).key("written").value(report.written);
  w.key("before_r2").value(report.before_r2).key("after_r2").value(report.after_r2);
  w.key("difference").begin_object().key("mean").value(report.difference.difference);
  w.key("low").value(report.difference.low).key("high").value(report.difference.high);
  w.key("p").value(report.difference.p).end_object();
  w.key("trials").value(options.trials).key("held_back_trials").value(report.trials);
  w.key("held_back_steps").value(report.steps).key("units").value(report.units);
  w.key("known_units").value(report.known_units).key("iterations").value(report.iterations);
  w.key("seconds").value(report.seconds);
  return w.end_object().text();
}

void run_adapt(const train::AdaptOptions& options, bool json) {
  const auto report = train::adapt(options).value_or_throw();
  const PairedDifference& d = report.difference;
  if (json) {
    std::cout << as_json(report, options) << "\n";
  } else {
    std::cout << fmt::format(
        "units     {}, of which the model knew {}\n"
        "before    r2 {:.4f}\nafter     r2 {:.4f}, difference {:.4f} [{:.4f}, {:.4f}], on {} steps "
        "of {} held-back trials\n"
        "time      {:.1f} s, {} updates on {} trials\n",
        report.units, report.known_units, report.before_r2, report.after_r2, d.difference, d.low,
        d.high, report.steps, report.trials, report.seconds, report.iterations, options.trials);
    if (report.written) std::cout << "model     " << options.out << "\n";
  }
  if (!report.written)
    throw Exception{{ErrorCode::unsupported,
                     fmt::format("{} was not written: adapted, the model is worse on {} held-back "
                                 "trials, r2 {:.4f} against {:.4f} as it was; --force writes it",
                                 options.out, report.trials, report.after_r2, report.before_r2),
                     "out"}};
}

}  // namespace

void add_adapt(CLI::App& app) {
  auto* command =
      app.add_subcommand("adapt", "Fit a trained decoder to a new day from a few of its trials");
  auto options = std::make_shared<train::AdaptOptions>();
  auto json = std::make_shared<bool>(false);
  train::AdaptOptions& o = *options;
  command->add_option("--model", o.model, "Stream decoder to start from")->required();
  add_data_flags(*command, o.data, false);
  const auto flag = [&](const char* name, auto& into, const char* help) {
    return command->add_option(name, into, help)->capture_default_str();
  };
  flag("--trials", o.trials, "Trials to learn from, drawn by --seed");
  flag("--split-train", o.data.train_split, "Trials that they are drawn from");
  flag("--split-val", o.data.val_split, "Trials held back, on which old and new are compared");
  command->add_option("--out", o.out, "Model file to write, in float32")->required();
  command->add_flag("--force", o.force, "Write the model even if it is worse");
  flag("--minutes", o.minutes, "Time to learn for, unless --iterations is given");
  command->add_option("--iterations", o.iterations, "Updates instead, for a repeatable result");
  flag("--lr", o.lr, "Peak learning rate");
  flag("--init-rows", o.init_rows,
       "Rows to start from: id, of the model's unit of the same id, or session, if that is of the "
       "same session as well; other units start as the mean of all");
  flag("--seed", o.seed, "Of the trials and their order");
  flag("--resamples", o.resamples, "Draws of held-back trials for the interval");
  add_device_flags(*command, o.device, o.threads);
  command->add_flag("--quiet", o.quiet, "No progress lines");
  command->add_flag("--json", *json, "One JSON object on standard output at the end");
  command->footer(
      "Only the rows of the day's units are learned. A model that is worse on the held-back trials "
      "than the old one is not written, and the command ends with 1.\n"
      "Example:\n  cortex-train adapt --model monday.safetensors --nwb tuesday.nwb --trials 20 "
      "--out tuesday.safetensors");
  command->callback([options, json] { run_adapt(*options, *json); });
}

}  // namespace cortex
