#pragma once

#include <CLI/App.hpp>
#include <string>
#include <vector>

#include "core/json_writer.h"
#include "train/trainer.h"

/// The subcommands of `cortex-train`. Each function registers one; its callback throws Exception
/// when it fails.
namespace cortex {

void add_train(CLI::App& app);
void add_evaluate(CLI::App& app);
void add_ridge(CLI::App& app);
void add_import(CLI::App& app);
void add_reference(CLI::App& app);

/// Flags that say which recordings and how they are cut. `steps`: bins and steps are the user's to
/// choose, not the model's.
void add_data_flags(CLI::App& command, train::DataOptions& data, bool steps);
void add_device_flags(CLI::App& command, std::string& device, int& threads);

void write_numbers(JsonWriter& json, const char* key, const std::vector<double>& values);

}  // namespace cortex
