#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "bench_ceilings.h"
#include "bench_commands.h"

namespace cortex {
namespace {

void run_ceilings(const CeilingOptions& options, bool json) {
  const Ceilings c = measure_ceilings(options);
  if (json) {
    JsonWriter w;
    w.begin_object();
    write_machine(w);
    w.key("ceilings");
    c.write(w);
    w.end_object();
    fmt::print("{}\n", w.text());
    return;
  }
  fmt::print("{}, {}, {} threads\n", cpu_model(), c.isa, c.threads);
  fmt::print("  fp32 {:.0f}, bf16 {:.0f} GFLOP/s, int8 {:.0f} GOP/s\n", c.fp32_gflops,
             c.bf16_gflops, c.int8_gops);
  for (const ReadCeiling& read : c.reads)
    fmt::print("  read {:<8} {:>6.0f} MB a thread  {:>7.1f} GB/s\n", read.level, read.mb_per_thread,
               read.gb_s);
}

}  // namespace

void add_bench_ceilings(CLI::App& bench) {
  struct Flags {
    CeilingOptions options;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = bench.add_subcommand(
      "ceilings", "Peak arithmetic of each precision and read bandwidth of each level.");
  command->add_option("--threads", flags->options.threads, "threads, one a core")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  command->add_option("--isa", flags->options.isa, "avx512, avx2 or scalar; default: the best")
      ->check(CLI::IsMember({"avx512", "avx2", "scalar"}));
  command->add_flag("--json", flags->json, "print one JSON object");
  command->footer("Example:\n  cortex bench ceilings --threads 2 --json");
  command->callback([flags] { run_ceilings(flags->options, flags->json); });
}

}  // namespace cortex
