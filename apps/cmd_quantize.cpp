#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "commands.h"
#include "core/log.h"
#include "kernels/cpu/cpu_ops.h"
#include "quant/quantize_model.h"
#include "quantize_data.h"
#include "quantize_report.h"

namespace cortex {
namespace {

struct QuantizeFlags {
  std::string model;
  std::string out;
  std::string precision = "int8";
  QuantizeDataOptions data;
  QuantizeOptions options;
  double max_error_percent = 2;
  int threads = 1;
  bool json = false;
};

std::size_t file_bytes(const std::string& model) {
  const std::filesystem::path path(model);
  return std::filesystem::file_size(std::filesystem::is_directory(path) ? path / "model.safetensors"
                                                                        : path);
}

/// A line on a terminal that the next one overwrites; nothing where nobody looks.
void show_progress(const std::string& what) {
  if (::isatty(STDERR_FILENO) == 1) fmt::print(stderr, "\r\x1b[K{}", what);
}

void quantize(QuantizeFlags flags) {
  const ModelFile model = load_model(flags.model).value_or_throw();
  if (model.config.linear())
    throw Exception{{ErrorCode::unsupported,
                     fmt::format("{} is a {} decoder: it has no linears to quantise", flags.model,
                                 to_string(model.config.kind)),
                     "model"}};
  const std::size_t file_bytes_before = file_bytes(flags.model);
  const QuantizeData data = read_quantize_data(model.config, flags.data);
  flags.options.precision = flags.precision == "int8" ? DType::i8 : DType::bf16;
  flags.options.max_error = flags.max_error_percent / 100;
  flags.options.progress = show_progress;
  const MakeOps ops = [&] { return make_cpu_ops({.threads = flags.threads, .isa = {}}); };
  QuantizedModel done =
      quantize_model(model, ops, data.calibration, flags.options).value_or_throw();
  save_model(flags.out, done.model.config, done.model.tensors).value_or_throw();

  // What is reported is what was written.
  const ModelFile written = load_model(flags.out).value_or_throw();
  const std::int64_t items = data.calibration.items();
  show_progress("the float model over the whole recording");
  const auto before = run_model(widen(model), ops, data.calibration, items);
  show_progress(fmt::format("{} over the whole recording", flags.precision));
  const auto after = run_model(written, ops, data.calibration, items);
  show_progress("");
  if (written.precision() != flags.options.precision)
    log::warn(fmt::format(
        "no linear could be {} within {:g}% of output error: {} is {}; --max-error "
        "allows more",
        flags.precision, flags.max_error_percent, flags.out, precision_name(written.precision())));

  QuantizeSummary summary;
  summary.model = flags.model;
  summary.out = flags.out;
  summary.recording = flags.data.nwb;
  summary.precision = precision_name(written.precision());
  summary.bytes_before = model.bytes();
  summary.bytes_after = written.bytes();
  summary.file_bytes_before = file_bytes_before;
  summary.file_bytes_after = file_bytes(flags.out);
  summary.output_error =
      output_error(after, before, data.observed, static_cast<std::size_t>(model.config.outputs()));
  summary.items = std::count(data.observed.begin(), data.observed.end(), std::uint8_t{1});
  summary.windows = model.config.kind == ModelKind::window;
  if (data.dims > 0) {
    summary.before = r2_score(data.target, before, data.held_out, data.dims);
    summary.after = r2_score(data.target, after, data.held_out, data.dims);
  }
  summary.held_out = data.held_out_means;
  summary.max_error = flags.options.max_error;
  summary.report = std::move(done.report);
  std::fputs(summary_text(summary).c_str(), stdout);
  if (flags.json) std::puts(summary_json(summary).c_str());
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto flags = std::make_shared<QuantizeFlags>();
  CLI::App* command =
      app.add_subcommand("quantize", "Write a model in int8 or bf16, and measure what that costs");
  command->add_option("--model", flags->model, "Model to quantise (safetensors)")->required();
  command->add_option("--calibrate", flags->data.nwb, "Recording (NWB 2.x) to measure on")
      ->required();
  command->add_option("--out", flags->out, "Model to write")->required();
  command->add_option("--precision", flags->precision, "int8 or bf16")
      ->check(CLI::IsMember({"int8", "bf16"}))
      ->capture_default_str();
  command
      ->add_option("--max-error", flags->max_error_percent,
                   "Output error in percent above which linears are kept in bf16")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  command
      ->add_option("--choice-steps", flags->options.choice_items,
                   "Observed steps (or windows) that choices are made on")
      ->check(CLI::Range(2, 100'000'000))
      ->capture_default_str();
  command
      ->add_option("--split", flags->data.split,
                   "Trials that are held out of the choices and scored: comma separated")
      ->capture_default_str();
  command->add_option("--seconds", flags->data.seconds, "Use only so much of the recording")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--windows", flags->data.windows,
                   "Window models: most windows to decode, half of them held out")
      ->check(CLI::Range(4, 100'000'000))
      ->capture_default_str();
  command->add_option("--threads", flags->threads, "Cores that share a step")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--target", flags->data.target, "Behaviour series to score (hand_vel)");
  command->add_flag("--allow-missing-units", flags->data.allow_missing_units,
                    "Units that the recording lacks are silent instead of an error");
  command->add_flag("--json", flags->json, "Print one JSON object last on standard output");
  command->footer(
      "Weights get a scale an output row; activations are quantised a row at a time as they come.\n"
      "The rule of clipping, and which linears stay in bf16, are chosen by measuring the model's\n"
      "output. See docs/quantization.md.\n"
      "Example:\n  cortex quantize --model decoder.safetensors --calibrate session.nwb "
      "--out decoder-int8.safetensors");
  command->callback([flags] { quantize(*flags); });
}

}  // namespace cortex
