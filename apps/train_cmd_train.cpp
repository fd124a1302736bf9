#include <CLI/CLI.hpp>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "configuration.h"
#include "model/config.h"
#include "train_commands.h"

namespace cortex {

constexpr char kModel[] = "Model";

/// The shape that a preset stands for, as keys of a configuration; empty for a baseline.
std::map<std::string, std::string> preset_settings(const std::string& preset) {
  const auto config = preset_config(preset);
  if (!config) return {};
  std::map<std::string, std::string> settings;
  const auto say = [&](const char* key, const auto& value) {
    settings[std::string("model.") + key] = CLI::detail::to_string(value);
  };
  say("dim", config->dim);
  say("layers", config->layers);
  say("heads", config->heads);
  say("latents", config->latents);
  say("value_buckets", config->value_buckets);
  if (config->streams()) {
    say("receptive_steps", config->receptive_steps);
    say("window_steps", config->window_steps);
  } else {
    say("receptive_ms", config->receptive_ms);
  }
  return settings;
}

void add_model_flags(CLI::App& command, train::ModelOverrides& model) {
  const auto flag = [&](const char* name, auto& into, const char* help) {
    command.add_option(name, into, help)->group(kModel);
  };
  flag("--dim", model.dim, "Width of the residual stream");
  flag("--layers", model.layers, "Blocks");
  flag("--heads", model.heads, "Attention heads");
  flag("--latents", model.latents, "Latents a step (stream) or a window");
  flag("--value-buckets", model.value_buckets, "Rows of the value embedding");
  flag("--receptive-steps", model.receptive_steps, "Stream: steps of events in reach, 1 to 5");
  flag("--window-steps", model.window_steps, "Stream: steps of self-attention");
  flag("--window-bins", model.window_bins, "Window: bins of a window (default: 1000 ms)");
  flag("--receptive-ms", model.receptive_ms, "Window: reach of a latent; 0: all events");
}

void add_learning_flags(CLI::App& command, train::TrainOptions& o) {
  const auto* group = "Learning";
  const auto flag = [&](const char* name, auto& into, const char* help) {
    command.add_option(name, into, help)->group(group)->capture_default_str();
  };
  flag("--iterations", o.iterations, "Updates (default 3000, or until --minutes are over)");
  flag("--minutes", o.minutes, "Wall time; the schedule then follows the clock");
  flag("--seed", o.seed, "Of weights and data order");
  flag("--select", o.select, "Weights to export: best on --split-val, or last");
  flag("--accumulate", o.accumulate, "Parts in which a batch is computed, for memory's sake");
  flag("--batch", o.batch, "Crops an update; 0: 16 (stream), 4 (window)");
  flag("--crop-steps", o.crop_steps, "Steps of a crop, warm-up included; 0: by the model");
  flag("--lr", o.lr, "Peak learning rate");
  flag("--weight-decay", o.weight_decay, "Of matrices and embeddings");
  flag("--clip", o.clip, "Largest gradient norm");
  flag("--ema", o.ema, "Decay of the averaged weights, which are evaluated and exported");
  flag("--unit-dropout", o.unit_dropout, "Largest share of units that a crop silences");
  flag("--thinning", o.thinning, "Largest share of a crop's spikes to drop");
  flag(
      "--fresh-starts", o.fresh_starts,
      "Share of crops that are scored from their first step on; default: 0.5 (stream), 0 (window)");
  flag("--warmup-iterations", o.warmup_iterations, "Linear rise of the learning rate");
}

void add_run_flags(CLI::App& command, train::TrainOptions& o) {
  command
      .add_option("--units-by", o.data.units_by,
                  "id: all recordings hold the same units; session: each has its own")
      ->capture_default_str()
      ->group(kDataGroup);
  command.add_option("--split-train", o.data.train_split, "Trials to learn from")
      ->capture_default_str()
      ->group(kDataGroup);
  command.add_option("--split-val", o.data.val_split, "Trials to score, or none")
      ->capture_default_str()
      ->group(kDataGroup);
  command.add_option("--out", o.out, "Model file to write")->required();
  command.add_option("--run", o.run_dir, "Folder of checkpoint and metrics (default: OUT.run)");
  command.add_flag("--resume", o.resume, "Go on from the run's checkpoint, if there is one");
  command.add_option("--eval-every", o.eval_every, "Iterations between scores")
      ->capture_default_str();
  command.add_option("--checkpoint-every", o.checkpoint_every, "Iterations between checkpoints")
      ->capture_default_str();
  command.add_option("--stop-after", o.stop_after,
                     "Updates of this process; then leave a checkpoint for --resume");
}

namespace {

void run_train(const train::TrainOptions& options, bool json) {
  const auto report = train::train(options).value_or_throw();
  say_if_stopped(report);
  if (!json) {
    if (!report.complete) return;
    std::cout << "model     " << report.model << "\nval r2    " << report.r2 << " over "
              << report.scored_steps << " steps (continuous), iteration " << report.best_iteration
              << " of " << report.iterations << "\ntime      " << report.seconds << " s, "
              << report.ms_per_iteration << " ms an iteration on " << report.device << "\n";
    return;
  }
  JsonWriter w;
  w.begin_object();
  write_run(w, report);
  w.key("r2").value(report.r2);
  write_numbers(w, "r2_per_dim", report.r2_per_dim);
  w.key("steps").value(report.scored_steps);
  std::cout << w.end_object().text() << "\n";
}

}  // namespace

void add_train(CLI::App& app) {
  auto* command = app.add_subcommand("train", "Train a decoder on recordings");
  auto options = std::make_shared<train::TrainOptions>();
  auto json = std::make_shared<bool>(false);
  train::TrainOptions& o = *options;
  command
      ->add_option("--preset", o.preset,
                   "stream-nano|deep|xs|s|m, cortex-xs|s|m, or a baseline: gru, transformer, possm")
      ->capture_default_str()
      ->group(kModel);
  add_data_flags(*command, o.data, true);
  auto protocol = std::make_shared<ProtocolFlags>();
  add_protocol_flags(*command, *protocol, o.data);
  add_run_flags(*command, o);
  add_device_flags(*command, o.device, o.threads);
  add_model_flags(*command, o.model);
  add_learning_flags(*command, o);
  command->add_option("--init", o.init, "Model to start from, on these or other units");
  command->add_option("--learn", o.learn, "all, or units: the rows of the recordings' units alone")
      ->capture_default_str();
  command
      ->add_option("--train-trials", o.train_trials,
                   "Trials to learn from, drawn by --seed: of every recording, or a number each "
                   "(0,20); 0: all")
      ->delimiter(',');
  command->add_flag("--float64", o.float64, "Compute in double precision, to compare runs")
      ->group("Learning");
  command
      ->add_option("--rank-timeout", o.rank_timeout_s,
                   "Seconds that ranks (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT) wait for one "
                   "another")
      ->capture_default_str();
  command->add_flag("--bf16", o.bf16, "Multiply in bfloat16; parameters and sums stay float32")
      ->group("Learning");
  command->add_flag("--quiet", o.quiet, "No progress lines");
  command->add_flag("--json", *json, "One JSON object on standard output at the end")
      ->configurable(false);
  add_configuration(*command,
                    {.section = "training",
                     .sections = {{kModel, "model"}, {kDataGroup, "data"}, {"Protocol", "data"}},
                     .variables = {},
                     .others = {"serve"},
                     .preset = [options] { return preset_settings(options->preset); }});
  command->footer(
      "Example:\n  cortex-train train --preset stream-nano --nwb session.nwb --out "
      "model.safetensors --minutes 10");
  command->callback([options, protocol, json] {
    train::TrainOptions final_options = *options;
    final_options.data = with_protocol(*protocol, final_options.data);
    if (final_options.data.folds) {
      if (final_options.data.fold < 0)
        throw CLI::ValidationError("--fold", "which of the folds is not to be seen?");
      // Nothing of a tested trial may choose anything: the last weights are taken.
      final_options.data.val_split = "test";
      final_options.select = "last";
    }
    if (final_options.data.val_split == "none") final_options.data.val_split.clear();
    run_train(final_options, *json);
  });
}

}  // namespace cortex
