#include <unistd.h>

#include <CLI/CLI.hpp>
#include <fstream>
#include <string>

#include "bench_commands.h"
#include "commands.h"

namespace cortex {

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const auto colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos)
      return line.substr(colon + 2);
  }
  return "unknown";
}

void write_machine(JsonWriter& w) {
  w.key("machine").begin_object().key("cpu").value(cpu_model());
  w.key("cores").value(static_cast<std::int64_t>(::sysconf(_SC_NPROCESSORS_ONLN))).end_object();
}

void add_bench(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Time decoders and measure the machine.");
  bench->require_subcommand(1);
  bench->footer(
      "Example:\n"
      "  cortex bench decode --preset stream-s --precision int8 --threads 2\n"
      "  cortex bench ceilings --json");
  add_bench_decode(*bench);
  add_bench_ceilings(*bench);
  add_bench_weights(*bench);
}

}  // namespace cortex
