#pragma once

#include <CLI/App.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/json_writer.h"
#include "train/trainer.h"

/// The subcommands of `cortex-train`. Each function registers one; its callback throws Exception
/// when it fails.
namespace cortex {

void add_train(CLI::App& app);
void add_pretrain(CLI::App& app);
void add_adapt(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_ridge(CLI::App& app);
void add_kalman(CLI::App& app);
void add_compare(CLI::App& app);
void add_import(CLI::App& app);
void add_reference(CLI::App& app);

/// The group of flags that say which recordings and how they are cut.
inline constexpr char kDataGroup[] = "Data";
/// Those flags. `steps`: bins and steps are the user's to
/// choose, not the model's.
void add_data_flags(CLI::App& command, train::DataOptions& data, bool steps);
/// Which steps count, and cross-validation. Folds are looked at when the command runs.
struct ProtocolFlags {
  std::string protocol = "causal";
  int folds = 0;  ///< 0: the splits of the file
  int fold = -1;
  std::string scheme = "trial";
  std::optional<double> guard_s;
  std::uint64_t seed = 1;
  std::string splits = "all";
};
void add_protocol_flags(CLI::App& command, ProtocolFlags& flags, train::DataOptions& data);
/// `data` with the protocol and the folds of `flags`.
train::DataOptions with_protocol(const ProtocolFlags& flags, train::DataOptions data);

/// Sizes of a model; how it learns; its recordings, splits, files and checkpoints.
void add_model_flags(CLI::App& command, train::ModelOverrides& model);
void add_learning_flags(CLI::App& command, train::TrainOptions& options);
void add_run_flags(CLI::App& command, train::TrainOptions& options);

/// Of a run that ends before its last update: where it goes on from.
void say_if_stopped(const train::TrainReport& report);
/// What every run comes to, as keys of an object that is open: files, updates, time.
void write_run(JsonWriter& json, const train::TrainReport& report);

void add_device_flags(CLI::App& command, std::string& device, int& threads);

void write_numbers(JsonWriter& json, const char* key, const std::vector<double>& values);

}  // namespace cortex
