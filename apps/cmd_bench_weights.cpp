#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "bench_commands.h"
#include "model_source.h"

namespace cortex {
namespace {

struct WeightsFlags {
  ModelSource source;
  std::string out;
};

void write_weights(const WeightsFlags& flags) {
  const ModelFile file = load(flags.source);
  save_model(flags.out, file.config, file.tensors).value_or_throw();
  std::puts(fmt::format("{}: {}, {}, {} parameters", flags.out, describe(flags.source, file),
                        precision_name(file.precision()), file.parameter_count())
                .c_str());
}

}  // namespace

void add_bench_weights(CLI::App& bench) {
  auto flags = std::make_shared<WeightsFlags>();
  CLI::App* command = bench.add_subcommand(
      "weights", "Write random weights of a preset as a model file, to load a server with");
  add_model_flags(*command, flags->source);
  command->add_option("--out", flags->out, "Model file to write")->required();
  command->footer(
      "Example:\n  cortex bench weights --preset stream-xs --precision int8 --out xs.safetensors");
  command->callback([flags] { write_weights(*flags); });
}

}  // namespace cortex
