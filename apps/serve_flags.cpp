#include "serve_flags.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <map>
#include <thread>

#include "configuration.h"
#include "model/identity_model.h"
#include "realtime_report.h"

namespace cortex {
namespace {

constexpr char kAccess[] = "Who may connect";
constexpr char kLimits[] = "Limits";
constexpr char kRecords[] = "Logs and traces";

// With fewer cores a polling thread takes one from the step that it waits for.
constexpr unsigned kPollingCores = 4;
constexpr int kBusyPollUs = 100;

const std::map<std::string, log::Level> kLevels = {{"debug", log::Level::debug},
                                                   {"info", log::Level::info},
                                                   {"warn", log::Level::warn},
                                                   {"error", log::Level::error}};

/// NAME=PATH, or a PATH that is named after its file.
NamedModel parse_model(const std::string& text) {
  const auto equals = text.find('=');
  NamedModel source;
  if (equals == std::string::npos) {
    source = {std::filesystem::path(text).stem().string(), text};
    // A file may be called anything; a name is chosen where it must be one.
    for (char& c : source.name)
      if (!std::isalnum(static_cast<unsigned char>(c)) && c != '.' && c != '_' && c != '-') c = '-';
  } else {
    source = {text.substr(0, equals), text.substr(equals + 1)};
  }
  if (!is_identity_name(source.path) && !std::filesystem::exists(source.path))
    throw CLI::ValidationError("--model", "no such file: " + source.path);
  return source;
}

}  // namespace

void ServeFlags::add_models(CLI::App& command) {
  command
      .add_option("--model", models,
                  "Model file (.safetensors), or NAME=FILE; several may be given, the first is the "
                  "default. identity or identity-window decodes nothing, to measure the server")
      ->required();
  command
      .add_option("--repository", server.repository,
                  "Folder whose NAME.safetensors may be loaded as NAME while the server runs")
      ->check(CLI::ExistingDirectory);
  command.add_option("--device", engine.device, kDeviceHelp)->capture_default_str();
  command.add_flag("--fp8", engine.fp8, "Float window models in 8-bit floats, on a Hopper GPU");
  command
      .add_option("--gemm-table", engine.gemm_table,
                  "File of cortex tune, for windows on a Hopper GPU in place of the built-in table")
      ->check(CLI::ExistingFile);
  command
      .add_option("--max-batch", engine.max_batch,
                  "Steps or windows computed at once; 0: what suits the device")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  command
      .add_option("--batches-in-flight", engine.batches_in_flight,
                  "Batches of a stream model on their way at once: with 2 the next one is packed "
                  "while the device computes; 0: 2 on a GPU, else 1")
      ->check(CLI::Range(0, 2))
      ->capture_default_str();
  command
      .add_option("--policy", policy,
                  "edf: earliest deadline first, what would be late is refused. fifo: in order of "
                  "arrival, to compare with")
      ->check(CLI::IsMember({"edf", "fifo"}))
      ->capture_default_str();
  command.add_flag("--realtime", engine.realtime, kRealtimeHelp);
  command
      .add_option("--warmup-iters", warmup_iters,
                  "Forwards that a model runs before it is ready, beside the engine's own")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  command
      .add_option(
          "--deadline-ms", server.deadline_ms,
          "Deadline of requests that name none; answers after it are withheld. Without it a "
          "step's deadline is the model's step and late answers are marked")
      ->check(CLI::PositiveNumber);
}

void ServeFlags::add_access(CLI::App& command) {
  command.add_option("--host", server.host, "Address to listen on")
      ->capture_default_str()
      ->group(kAccess);
  command.add_option("--port", server.port, "Port to listen on; 0 picks a free one")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str()
      ->group(kAccess);
  command
      .add_option("--unix", server.unix_path,
                  "Listen on a Unix socket as well, for this user alone")
      ->group(kAccess);
  command
      .add_option(
          "--api-key-file", server.api_key_file,
          "Keys that clients send as Authorization: Bearer KEY, a line each: KEY, TENANT KEY "
          "or TENANT KEY admin; needed for any address but loopback. Read again when it "
          "changes")
      ->check(CLI::ExistingFile)
      ->group(kAccess);
  command.add_option("--tls-cert", server.tls_cert, "Certificate chain (PEM): TLS 1.2 and above")
      ->check(CLI::ExistingFile)
      ->group(kAccess);
  command.add_option("--tls-key", server.tls_key, "Its private key (PEM)")
      ->check(CLI::ExistingFile)
      ->group(kAccess);
  command
      .add_option("--allow-origin", server.allow_origins,
                  "Origin of a web page that may talk to a server without keys, e.g. "
                  "http://localhost:3000; several may be given")
      ->group(kAccess);
}

void ServeFlags::add_limits(CLI::App& command) {
  const auto at_least_one = CLI::Range(1, 1'000'000);
  const auto or_none = CLI::Range(0, 1'000'000);
  const auto limit = [&](const char* name, auto& value, const char* help, const auto& range) {
    command.add_option(name, value, help)->check(range)->capture_default_str()->group(kLimits);
  };
  limit("--max-sessions", engine.max_sessions, "Sessions open at once", at_least_one);
  limit("--max-queued-steps", engine.max_queued_steps, "Steps of a session waiting", at_least_one);
  limit("--max-queued-windows", engine.max_queued_windows, "Windows waiting", at_least_one);
  limit("--max-events", engine.max_window_events, "Events of a window", at_least_one);
  limit("--max-tenants", engine.max_tenants, "Tenants in the key file, and one without a key",
        at_least_one);
  limit("--max-tenant-sessions", engine.max_tenant_sessions, "Sessions of one tenant; 0: as all",
        or_none);
  limit("--max-tenant-windows", engine.max_tenant_windows,
        "Windows of one tenant waiting; 0: as all", or_none);
  limit("--max-rate", server.max_rate,
        "Requests and frames a second of one client (an address or a tenant); 0: no limit",
        CLI::NonNegativeNumber);
  limit("--max-body", server.max_body, "Bytes of a request or WebSocket message",
        CLI::Range(std::size_t{1024}, std::size_t{1} << 30));
  limit("--max-connections", server.max_connections, "Connections at once", at_least_one);
  limit("--idle-timeout", server.idle_timeout_s,
        "Seconds without a request until a connection or session is closed", CLI::PositiveNumber);
  limit("--read-timeout", server.read_timeout_s, "Seconds in which a request must arrive",
        CLI::PositiveNumber);
  limit("--write-timeout", server.write_timeout_s, "Seconds in which an answer must be read",
        CLI::PositiveNumber);
  limit("--max-behind-s", server.max_behind_s,
        "Seconds that a session's step may wait for its answer before the session is closed; 0: no "
        "limit",
        CLI::NonNegativeNumber);
  if (std::thread::hardware_concurrency() >= kPollingCores) server.busy_poll_us = kBusyPollUs;
  limit(
      "--busy-poll-us", server.busy_poll_us,
      "Microseconds that the network thread polls for an answer, and the compute thread for work, "
      "before they sleep; 0: none",
      CLI::Range(0, 1'000'000));
}

void ServeFlags::add_records(CLI::App& command) {
  command.add_option("--log-file", log.file, "Append log lines to a file, not standard error")
      ->group(kRecords);
  command
      .add_option("--log-level", log_level, "debug, info, warn or error: the least to be logged")
      ->transform(CLI::IsMember({"debug", "info", "warn", "error"}, CLI::ignore_case))
      ->capture_default_str()
      ->group(kRecords);
  command.add_flag("--log-json", log.json, "Log lines are JSON objects")->group(kRecords);
  command
      .add_flag("--log-requests", server.log_requests,
                "Log every HTTP request and session (never a step)")
      ->group(kRecords);
  command
      .add_option("--otlp", server.otlp_url,
                  "Send traces to an OpenTelemetry collector (OTLP/HTTP), e.g. "
                  "http://127.0.0.1:4318")
      ->group(kRecords);
  command
      .add_option("--trace-ratio", server.trace_ratio,
                  "Share of the requests without a traceparent that are traced")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str()
      ->group(kRecords);
}

void ServeFlags::add_recorder(CLI::App& command) {
  command
      .add_option("--record", record_dir,
                  "Folder for a flight log of each model: every step and answer of its sessions, "
                  "for cortex verify and cortex export")
      ->check(CLI::ExistingDirectory)
      ->group(kRecords);
  command
      .add_option("--record-buffer-mb", record_buffer_mb,
                  "MiB of steps that may wait for the disk; what exceeds it is lost, and counted")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str()
      ->group(kRecords);
  command
      .add_option("--record-sync-ms", record_sync_ms,
                  "Sync the log so often: a crash loses no more than came since")
      ->check(CLI::Range(1, 60'000))
      ->capture_default_str()
      ->group(kRecords);
}

void ServeFlags::add_to(CLI::App& command) {
  add_models(command);
  add_access(command);
  add_limits(command);
  add_records(command);
  add_recorder(command);
  add_configuration(
      command, {.section = "serve",
                .sections = {},
                // As the published Python service calls them.
                .variables = {{"CORTEX_CHECKPOINT", "model"}, {"CORTEX_OTEL_ENDPOINT", "otlp"}},
                .others = {"model", "data", "training"}});
}

void ServeFlags::settle() {
  for (const std::string& text : models) {
    NamedModel source = parse_model(text);
    for (const NamedModel& other : server.models)
      if (other.name == source.name)
        throw CLI::ValidationError(
            "--model", fmt::format("two models are called {}: say NAME=FILE", source.name));
    server.models.push_back(std::move(source));
  }
  engine.policy = policy == "fifo" ? SchedulerPolicy::fifo : SchedulerPolicy::edf;
  log::set_level(kLevels.at(log_level));
  server.max_queued_steps = engine.max_queued_steps;
  server.max_tenants = engine.max_tenants;
  engine.idle_timeout_s = server.idle_timeout_s;
  if (!is_loopback(server.host) && server.api_key_file.empty())
    throw CLI::ValidationError(
        "--host", fmt::format("{} is not a loopback address, so whoever reaches it could use the "
                              "decoder: give --api-key-file FILE as well",
                              server.host));
}

}  // namespace cortex
