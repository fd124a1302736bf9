#pragma once

#include <CLI/App.hpp>

/// The subcommands of `cortex`. Each function registers one; its callback throws Exception (see
/// cortex/result.h) when it fails, or CLI::ValidationError for flags that do not go together.
namespace cortex {

void add_simulate(CLI::App& app);
void add_download(CLI::App& app);
void add_import(CLI::App& app);
void add_inspect(CLI::App& app);
void add_serve(CLI::App& app);
void add_replay(CLI::App& app);
void add_verify(CLI::App& app);
void add_export(CLI::App& app);
void add_doctor(CLI::App& app);
void add_quantize(CLI::App& app);
void add_profile(CLI::App& app);
void add_jitter(CLI::App& app);
void add_bench(CLI::App& app);
void add_load(CLI::App& app);
void add_tune(CLI::App& app);

}  // namespace cortex
