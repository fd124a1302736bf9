#pragma once

#include <CLI/App.hpp>
#include <string>

#include "core/json_writer.h"

/// The subcommands of `cortex bench`, as in commands.h.
namespace cortex {

void add_bench_ceilings(CLI::App& bench);
void add_bench_weights(CLI::App& bench);
void add_bench_decode(CLI::App& bench);
void add_bench_scheduler(CLI::App& bench);

/// "Intel(R) Xeon(R) Processor", as the kernel says it.
std::string cpu_model();
/// Key "machine" of a report: CPU model and cores.
void write_machine(JsonWriter& w);

}  // namespace cortex
