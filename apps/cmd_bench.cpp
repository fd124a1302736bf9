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
  CLI::App* bench =
      app.add_subcommand("bench", "Time decoders, measure the machine, simulate load.");
  bench->require_subcommand(1);
  bench->footer(
      "Example:\n"
      "  cortex bench decode --preset stream-s --precision int8 --threads 2\n"
      "  cortex bench ceilings --json\n"
      "  cortex bench scheduler --load sessions --utilisation 1.2");
  add_bench_decode(*bench);
  add_bench_ceilings(*bench);
  add_bench_weights(*bench);
  add_bench_scheduler(*bench);
}

}  // namespace cortex
