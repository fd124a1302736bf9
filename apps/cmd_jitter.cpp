#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <string>

#include "commands.h"
#include "engine/local_engine.h"
#include "jitter.h"
#include "model_source.h"
#include "realtime_report.h"

namespace cortex {
namespace {

struct JitterFlags {
  ModelSource source;
  JitterOptions options;
  std::string device = "auto";
  bool realtime = false;
  bool json = false;
};

void run_jitter(const JitterFlags& flags) {
  const ModelFile file = load(flags.source);
  if (file.config.kind != ModelKind::stream)
    throw Exception{{ErrorCode::unsupported,
                     "jitter is measured over the steps of a stream; this is a window model",
                     "model"}};
  if (flags.options.events > file.config.max_events_per_step)
    throw CLI::ValidationError("--events", "more than a step of this model may hold (" +
                                               std::to_string(file.config.max_events_per_step) +
                                               ")");
  EngineOptions options;
  options.model_path = flags.source.model;
  options.max_sessions = 1;
  options.max_batch = 1;
  options.max_queued_windows = 1;
  options.realtime = flags.realtime;
  options.device = flags.device;
  const auto engine = LocalEngine::create(options, file).value_or_throw();
  const JitterReport report = measure_jitter(*engine, file.config, flags.options);
  const JitterContext context{.model = describe(flags.source, file),
                              .precision = precision_name(file.precision()),
                              .options = flags.options,
                              .realtime = {engine->realtime().begin(), engine->realtime().end()}};
  if (flags.json)
    std::puts(jitter_json(report, context).c_str());
  else
    std::fputs(jitter_text(report, context).c_str(), stdout);
}

}  // namespace

void add_jitter(CLI::App& app) {
  auto flags = std::make_shared<JitterFlags>();
  CLI::App* command = app.add_subcommand(
      "jitter", "How far the time of a step spreads, beside an idle spin of the same length");
  add_model_flags(*command, flags->source);
  command->add_option("--steps", flags->options.steps, "Steps to measure, after a warm-up")
      ->check(CLI::Range(1, 100'000'000))
      ->capture_default_str();
  command->add_option("--events", flags->options.events, "Events of every step, at random")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--period-us", flags->options.period_us,
                   "Submit a step every so many microseconds; default: back to back")
      ->check(CLI::Range(1, 100'000'000));
  command->add_option("--device", flags->device, kDeviceHelp)->capture_default_str();
  command->add_flag("--realtime", flags->realtime, kRealtimeHelp);
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer(
      "After each answer the compute thread reads the clock as often as takes a step's median\n"
      "time: what lengthens that is the machine, not the engine. A step should spread (p99-p50)\n"
      "at most 1.5 times as far.\n"
      "Example:\n"
      "  cortex jitter --preset stream-nano --steps 100000 --realtime");
  command->callback([flags] { run_jitter(*flags); });
}

}  // namespace cortex
