#include <cortex/engine.h>
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "commands.h"
#include "core/log.h"
#include "realtime_report.h"
#include "serve/server.h"

namespace cortex {
namespace {

struct ServeFlags {
  EngineOptions engine;
  ServerOptions server;
  std::string api_key_file;
};

void announce(const Server& server, const Engine& engine) {
  const ModelInfo& model = engine.model();
  std::cout << realtime_lines(engine.realtime());
  const std::string& name = model.preset.empty() ? model.kind : model.preset;
  if (!model.backend_note.empty())
    std::cout << fmt::format("cortex: runs on the CPU: {}\n", model.backend_note);
  std::cout << fmt::format("cortex: serving {} ({}, {} parameters, {}) on {}\n", name,
                           model.precision, model.parameters, model.backend, server.url())
            << std::flush;
}

void serve(ServeFlags flags) {
  if (!flags.api_key_file.empty())
    flags.server.api_key = read_api_key(flags.api_key_file).value_or_throw();
  flags.server.max_queued_steps = flags.engine.max_queued_steps;
  flags.engine.idle_timeout_s = flags.server.idle_timeout_s;
  if (!is_loopback(flags.server.host) && flags.server.api_key.empty())
    throw CLI::ValidationError(
        "--host", fmt::format("{} is not a loopback address, so whoever reaches it could use the "
                              "decoder: give --api-key-file FILE as well",
                              flags.server.host));
  const auto server = Server::create(flags.server).value_or_throw();

  // The socket answers /health and /ready while the model loads.
  std::unique_ptr<Engine> engine;
  std::optional<Error> failed;
  std::thread loader([&] {
    auto created = Engine::create(flags.engine);
    if (!created) {
      failed = created.error();
      return server->stop();
    }
    engine = std::move(*created);
    server->attach(*engine);
    announce(*server, *engine);
  });
  server->run();
  loader.join();
  // Before the server: an engine that goes answers what it still holds.
  engine.reset();
  if (failed) throw Exception{*failed};
}

}  // namespace

void add_serve(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a model over HTTP and WebSocket");
  command
      ->add_option("--model", flags->engine.model_path,
                   "Model file (.safetensors); identity or identity-window decodes nothing, to "
                   "measure the server alone")
      ->required()
      ->check(CLI::ExistingPath | CLI::IsMember({"identity", "identity-window"}));
  command->add_option("--host", flags->server.host, "Address to listen on")->capture_default_str();
  command->add_option("--port", flags->server.port, "Port to listen on; 0 picks a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  command
      ->add_option("--deadline-ms", flags->server.deadline_ms,
                   "Deadline of requests that name none; answers after it are withheld. Without "
                   "it a step's deadline is the model's step and late answers are marked")
      ->check(CLI::PositiveNumber);
  command->add_option("--max-sessions", flags->engine.max_sessions, "Sessions open at once")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command->add_option("--device", flags->engine.device, kDeviceHelp)->capture_default_str();
  command->add_option("--max-batch", flags->engine.max_batch, "Steps or windows computed at once")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_flag("--realtime", flags->engine.realtime, kRealtimeHelp);
  command
      ->add_option("--max-body", flags->server.max_body, "Bytes of a request or WebSocket message")
      ->check(CLI::Range(std::size_t{1024}, std::size_t{1} << 30))
      ->capture_default_str();
  command->add_option("--max-connections", flags->server.max_connections, "Connections at once")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  command
      ->add_option("--idle-timeout", flags->server.idle_timeout_s,
                   "Seconds without a request until a connection or session is closed")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command
      ->add_option("--api-key-file", flags->api_key_file,
                   "File with a key that clients must send as Authorization: Bearer KEY; needed "
                   "for any address but loopback")
      ->check(CLI::ExistingFile);
  command->footer(
      "Example:\n"
      "  cortex serve --model decoder.safetensors --port 8080\n"
      "  curl http://127.0.0.1:8080/v1/model\n"
      "SIGTERM and SIGINT answer what was accepted, then exit 0.");
  command->callback([flags] { serve(*flags); });
}

}  // namespace cortex
