#include <cortex/engine.h>
#include <fmt/chrono.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "commands.h"
#include "core/log.h"
#include "realtime_report.h"
#include "record/recording_engine.h"
#include "serve/server.h"
#include "serve_flags.h"

namespace cortex {
namespace {

void announce(const Server& server, const NamedModel& source, bool name_it, const Engine& engine) {
  const ModelInfo& model = engine.model();
  std::cout << realtime_lines(engine.realtime());
  const std::string& preset = model.preset.empty() ? model.kind : model.preset;
  if (!model.backend_note.empty())
    std::cout << fmt::format("cortex: runs on the CPU: {}\n", model.backend_note);
  std::cout << fmt::format("cortex: serving {}{} ({}, {} parameters, {}) on {}\n", preset,
                           name_it ? " as " + source.name : "", model.precision, model.parameters,
                           model.backend, server.url())
            << std::flush;
}

/// Runs as a client would, `forwards` times: steps of silence, or windows without events.
Result<void> warm_up(Engine& engine, int forwards) {
  if (forwards == 0) return {};
  if (engine.model().kind != "stream") {
    for (int i = 0; i < forwards; ++i)
      if (auto answer = engine.decode({.best_effort = true}); !answer) return answer.error();
    return {};
  }
  const auto session = engine.open_session({.best_effort = true});
  if (!session) return session.error();
  for (int i = 0; i < forwards; ++i)
    if (auto answer = engine.step({.session = session->id, .sequence = i}); !answer)
      return answer.error();
  if (auto closed = engine.close_session(session->id); !closed) return closed.error();
  return {};
}

/// A flight recorder's flags and what its files have come to.
struct FlightRecording {
  std::string folder;
  record::RecorderOptions options;
  record::RecorderCounters counters;

  /// `engine` with its sessions recorded in a new file; a window model keeps none.
  Result<std::unique_ptr<Engine>> begin(std::unique_ptr<Engine> engine, const NamedModel& source,
                                        const EngineOptions& its) {
    if (engine->model().kind != "stream") {
      log::warn(source.name + " is a window model: it has no sessions to record");
      return engine;
    }
    const std::string stem = fmt::format("{}/{:%Y%m%dT%H%M%SZ}-{}", folder,
                                         fmt::gmtime(std::time(nullptr)), source.name);
    std::string path = stem + ".cortexlog";
    // A model that is loaded twice within a second.
    for (int i = 2; std::filesystem::exists(path); ++i)
      path = fmt::format("{}-{}.cortexlog", stem, i);
    auto recorder = record::Recorder::create(path, engine->model(), options, counters);
    if (!recorder) return recorder.error();
    log::info("recording to " + path);
    return record::record_sessions(std::move(engine), *std::move(recorder),
                                   its.max_sessions * its.max_queued_steps);
  }
};

void serve(ServeFlags flags) {
  flags.settle();
  if (!log::configure(flags.log))
    throw Exception{{ErrorCode::io_error, flags.log.file + ": cannot be written", "log-file"}};

  std::optional<Error> failed;
  FlightRecording recording{
      .folder = flags.record_dir,
      .options = {.ring_bytes = std::size_t(flags.record_buffer_mb) << 20,
                  .sync_every = std::chrono::milliseconds(flags.record_sync_ms)},
      .counters = {}};
  std::unique_ptr<Server> server;
  ServerOptions& options = flags.server;
  options.make_engine = [&](const NamedModel& source) -> Result<std::unique_ptr<Engine>> {
    EngineOptions its = flags.engine;
    its.model_path = source.path;
    its.busy_poll_us = options.busy_poll_us;
    auto made = Engine::create(its);
    if (!made) return made;
    if (auto warm = warm_up(**made, flags.warmup_iters); !warm) return warm.error();
    if (recording.folder.empty()) return made;
    return recording.begin(*std::move(made), source, its);
  };
  if (!recording.folder.empty())
    options.record_stats = [&counters = recording.counters] {
      return RecordStats{counters.written.value(), counters.lost.value(), counters.bytes.value(),
                         counters.failing};
    };
  options.on_loaded = [&](const NamedModel& source, const Result<Engine*>& outcome) {
    if (outcome) return announce(*server, source, options.models.size() > 1, **outcome);
    if (!failed) failed = outcome.error();
    server->stop();
  };
  server = Server::create(options).value_or_throw();
  if (!options.unix_path.empty())
    std::cout << fmt::format("cortex: listening on unix:{}\n", options.unix_path) << std::flush;
  // The socket answers /health and /ready while the models load.
  server->run();
  server.reset();
  log::flush();
  if (failed) throw Exception{*failed};
}

}  // namespace

void add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve models over HTTP and WebSocket");
  flags->add_to(*command);
  command->footer(
      "Example:\n"
      "  cortex serve --model decoder.safetensors --port 8080\n"
      "  curl http://127.0.0.1:8080/v1/model\n"
      "  cortex serve --model arm=a.safetensors --model hand=h.safetensors --unix "
      "/run/cortex.sock\n"
      "  CORTEX_MAX_BATCH=8 cortex serve --config rig.toml --set serve.port=9000 --print-config\n"
      "SIGTERM and SIGINT answer what was accepted, then exit 0; SIGHUP reads keys and "
      "certificate\n"
      "again.");
  command->callback([flags] { serve(*flags); });
}

}  // namespace cortex
