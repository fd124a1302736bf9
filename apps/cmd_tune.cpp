#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <span>
#include <string>

#include "commands.h"
#include "core/file.h"
#include "core/json_writer.h"
#include "kernels/backend.h"

namespace cortex {
namespace {

using cuda::GemmTiming;
using cuda::name_of;

struct TuneFlags {
  std::string device = "cuda:0";
  cuda::TuneOptions options;
  std::string out;
  std::string source;
  bool json = false;
};

/// A line on a terminal that the next one overwrites; nothing where nobody looks.
void show_progress(const std::string& what) {
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\r\x1b[K{}", what);
}

bool peer_wins(const GemmTiming& t) {
  return t.product_us && t.pass_us && *t.product_us + *t.pass_us < t.us;
}

double tera_ops(const GemmTiming& t) { return 2.0 * t.best.m * t.best.n * t.best.k / t.us * 1e-6; }

std::string tuning_text(const GpuTuning& tuning) {
  const std::string& peer = tuning.gemm.peer;
  std::string text =
      fmt::format("{}, beside {}\n\n", tuning.device, peer.empty() ? "no cuBLASLt" : peer);
  text += fmt::format("{:5}{:>4} {:5}{:11}{:>6}{:>6}{:>6} {:18}{:>6}{:>8}{:>7}{:>10}{:>8}\n",
                      "type", "dim", "", "epilogue", "m", "n", "k", "tiling", "split", "us",
                      "TOP/s", "cuBLASLt", "+ pass");
  int won = 0;
  for (const GemmTiming& t : tuning.gemm.timings) {
    const auto& e = t.best;
    text += fmt::format("{:5}{:>4} {:5}{:11}{:>6}{:>6}{:>6} {:18}{:>6}{:>8.2f}{:>7.0f}",
                        name_of(e.type), t.dim, t.linear, name_of(e.epilogue), e.m, e.n, e.k,
                        name_of(e.config), e.split, t.us, tera_ops(t));
    if (t.product_us) text += fmt::format("{:>10.2f}", *t.product_us);
    if (t.product_us && t.pass_us) text += fmt::format("{:>8.2f}", *t.product_us + *t.pass_us);
    if (peer_wins(t)) text += "  cuBLASLt is faster";
    won += peer_wins(t);
    text += "\n";
  }
  if (!peer.empty())
    text += fmt::format(
        "\n{} of {} shapes would be faster as cuBLASLt's product and a pass for what the epilogue "
        "does.\n",
        won, tuning.gemm.timings.size());
  return text;
}

std::string tuning_json(const GpuTuning& tuning) {
  JsonWriter w;
  w.begin_object().key("device").value(tuning.device).key("peer");
  if (tuning.gemm.peer.empty())
    w.null();
  else
    w.value(tuning.gemm.peer);
  w.key("timings").begin_array();
  for (const GemmTiming& t : tuning.gemm.timings) {
    const auto& e = t.best;
    w.begin_object().key("type").value(name_of(e.type)).key("dim").value(t.dim);
    w.key("linear").value(t.linear).key("epilogue").value(name_of(e.epilogue));
    w.key("m").value(e.m).key("n").value(e.n).key("k").value(e.k);
    w.key("tiling").value(name_of(e.config)).key("split").value(e.split).key("us").value(t.us);
    if (t.product_us) w.key("cublaslt_us").value(*t.product_us);
    if (t.pass_us) w.key("pass_us").value(*t.pass_us);
    w.key("cublaslt_wins").value(peer_wins(t)).end_object();
  }
  w.end_array().end_object();
  return w.text();
}

void write_text(const std::string& path, const std::string& text) {
  write_file_atomic(path, std::as_bytes(std::span(text))).value_or_throw();
}

void run_tune(TuneFlags flags) {
  flags.options.progress = show_progress;
  const GpuTuning tuning = tune_gpu(flags.device, flags.options).value_or_throw();
  show_progress("");
  std::vector<cuda::GemmTableEntry> entries;
  for (const GemmTiming& t : tuning.gemm.timings) entries.push_back(t.best);
  const cuda::GemmTable table(std::move(entries));
  if (!flags.out.empty()) write_text(flags.out, gemm_table_json(table, tuning.device));
  if (!flags.source.empty()) write_text(flags.source, gemm_table_source(table, tuning.device));
  if (flags.json)
    std::puts(tuning_json(tuning).c_str());
  else
    std::fputs(tuning_text(tuning).c_str(), stdout);
}

}  // namespace

void add_tune(CLI::App& app) {
  auto flags = std::make_shared<TuneFlags>();
  CLI::App* command = app.add_subcommand(
      "tune", "Find the fastest tiling of every linear on this GPU, beside cuBLASLt");
  command->add_option("--device", flags->device, "GPU to measure: cuda:N")->capture_default_str();
  command->add_option("--out", flags->out, "Table (JSON) to write, for this card");
  command->add_option("--source", flags->source,
                      "The table that ships, to write: src/kernels/cuda/gemm_table.inc");
  command
      ->add_option("--seconds", flags->options.seconds,
                   "Samples of each tiling that may be the fastest, in seconds")
      ->check(CLI::Range(0.0001, 10.0))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer(
      "Times are of a call within a CUDA graph of 20, each with weights of its own: the linears "
      "of\n"
      "cortex-xs, -s and -m for 1 to 32 windows. No table touches a stream.\n"
      "cuBLASLt is loaded from where the dynamic linker finds it (libcublasLt.so.13 or .12): its\n"
      "product alone, and with a pass over memory for what our epilogue does beside it.\n"
      "Example:\n  cortex tune --device cuda:0 --out h200.json");
  command->callback([flags] { run_tune(*flags); });
}

}  // namespace cortex
