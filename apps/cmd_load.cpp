#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <string>

#include "commands.h"
#include "load_run.h"
#include "realtime_report.h"
#include "serve/server.h"

namespace cortex {
namespace {

/// Relative to the largest output: batches may change a window's last bits, no more.
constexpr double kWindowTolerance = 1e-4;

struct LoadFlags {
  LoadOptions options;
  std::string rate;
  std::string wire;
  std::string arrivals;
  std::string api_key_file;
  bool json = false;
};

CLI::ValidationError wrong(const char* flag, std::string why) {
  return CLI::ValidationError(flag, std::move(why));
}

void choose_wire(const LoadFlags& flags, LoadOptions& options) {
  const std::map<std::string, Wire> wires = {
      {"http", Wire::http}, {"json", Wire::json}, {"binary", Wire::binary}};
  if (flags.wire.empty())
    options.wire = options.windows ? Wire::http : Wire::binary;
  else
    options.wire = wires.at(flags.wire);
  if (options.in_process() && !flags.wire.empty())
    throw wrong("--wire", "there is none in process");
  if (options.wire == Wire::http && !options.windows)
    throw wrong("--wire", "http carries --windows; a session needs json or binary frames");
  if (options.echo && options.wire == Wire::json && !options.in_process())
    throw wrong("--echo", "json frames differ in length: --wire binary, or http with --windows");
  // What differs in length from one step to the next cannot be learned once.
  if (options.echo) options.even_events = true;
}

void choose_arrivals(const LoadFlags& flags, LoadOptions& options) {
  const std::map<std::string, Arrivals> kinds = {
      {"clock", Arrivals::clock}, {"poisson", Arrivals::poisson}, {"closed", Arrivals::closed}};
  if (!flags.rate.empty() && flags.rate != "max") {
    char* end = nullptr;
    options.rate_hz = std::strtod(flags.rate.c_str(), &end);
    if (*end != '\0' || !(options.rate_hz > 0) || !(options.rate_hz <= 1e9))
      throw wrong("--rate", fmt::format("'{}' is neither a rate in Hz nor 'max'", flags.rate));
  }
  if (!options.windows) {
    if (!flags.arrivals.empty() || !options.trace.empty())
      throw wrong("--arrivals", "is of --windows; a session sends a step at each beat of --rate");
    options.arrivals = flags.rate == "max" ? Arrivals::closed : Arrivals::clock;
    return;
  }
  options.arrivals = !options.trace.empty()    ? Arrivals::trace
                     : !flags.arrivals.empty() ? kinds.at(flags.arrivals)
                     : options.rate_hz > 0     ? Arrivals::poisson
                                               : Arrivals::closed;
  const bool has_rate =
      options.arrivals == Arrivals::clock || options.arrivals == Arrivals::poisson;
  if (has_rate != (options.rate_hz > 0))
    throw wrong("--rate", has_rate ? "how many windows a second, in all?"
                                   : "is of --arrivals clock and poisson");
}

void load(LoadFlags flags) {
  LoadOptions& options = flags.options;
  if (options.url.empty() == options.model.empty())
    throw wrong("load", "give one of --url and --model");
  choose_wire(flags, options);
  choose_arrivals(flags, options);
  if (!options.verify.empty() && options.echo)
    throw wrong("--verify", "an echo cannot be verified; run without --echo");
  if (options.generators > 1 && (options.windows || options.echo))
    throw wrong("--generators", "is of sessions, and without --echo");
  if (options.generators > options.sessions)
    throw wrong("--generators",
                fmt::format("{} for {} sessions", options.generators, options.sessions));
  if (!flags.api_key_file.empty())
    options.api_key = read_api_key(flags.api_key_file).value_or_throw();
  const LoadReport report = run_load(options);
  std::fputs(load_text(report).c_str(), flags.json ? stderr : stdout);
  if (flags.json) std::puts(load_json(report).c_str());
  if (report.verify && report.verify->wrong > 0)
    throw Exception{{ErrorCode::internal, "wrong answers: " + report.verify->first_wrong, ""}};
  if (report.check && report.check->worst > kWindowTolerance)
    throw Exception{{ErrorCode::internal,
                     fmt::format("wrong answers: a window is off by {:.2g}", report.check->worst),
                     ""}};
  if (report.ports == 0)
    throw Exception{
        {ErrorCode::unavailable, "no session was opened: " + report.refused_because, ""}};
  if (!report.was_served())
    throw Exception{{ErrorCode::unavailable,
                     "no request was answered or refused for its deadline or a limit", ""}};
}

}  // namespace

void add_load(CLI::App& app) {
  auto flags = std::make_shared<LoadFlags>();
  LoadOptions& o = flags->options;
  CLI::App* command =
      app.add_subcommand("load", "Load a server or an engine, measure and check its answers");
  command->add_option("--url", o.url, "A server: http://HOST:PORT or unix:PATH");
  command->add_option("--model", o.model, "In process: a model file, identity or identity-window");
  command->add_option("--device", o.device, kDeviceHelp)->capture_default_str();
  command
      ->add_option("--max-batch", o.max_batch,
                   "In process: steps or windows computed at once; 0: what suits the device")
      ->check(CLI::Range(0, 65536))
      ->capture_default_str();
  command
      ->add_option("--batches-in-flight", o.batches_in_flight,
                   "In process, of a stream model: on their way at once; 0: what suits the device")
      ->check(CLI::Range(0, 2))
      ->capture_default_str();
  command->add_option("--sessions", o.sessions, "Streams at once")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command->add_option("--generators", o.generators, "Threads that share the sessions")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command
      ->add_option("--poll-us", o.poll_us,
                   "Microseconds that a thread polls before it sleeps: a core that went idle wakes "
                   "late")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  command->add_flag("--windows", o.windows, "Stateless windows instead of streams");
  command->add_option("--connections", o.connections, "Of windows, one in flight on each")
      ->check(CLI::Range(1, 100'000))
      ->capture_default_str();
  command
      ->add_option("--wire", flags->wire,
                   "binary or json frames of a WebSocket; http: POST /decode. Default: binary "
                   "for streams, http for windows")
      ->check(CLI::IsMember({"binary", "json", "http"}));
  command->add_option("--rate", flags->rate,
                      "Hz: of each session (default: the model's own), or of all windows together; "
                      "max: the next when one is answered");
  command
      ->add_option("--arrivals", flags->arrivals,
                   "Of windows: clock, poisson (default with --rate), or closed: the next when "
                   "one is answered (default without)")
      ->check(CLI::IsMember({"clock", "poisson", "closed"}));
  command->add_option("--trace", o.trace, "Of windows: a file of times in seconds, one a line")
      ->check(CLI::ExistingFile);
  command->add_option("--seconds", o.seconds, "How long")
      ->check(CLI::Range(0.01, 1e6))
      ->capture_default_str();
  command->add_option("--warmup", o.warmup_s, "Seconds before them that are not counted")
      ->check(CLI::Range(0.0, 1e4))
      ->capture_default_str();
  command
      ->add_option("--drain", o.drain_s,
                   "Seconds after them, at most, in which what is outstanding may be answered")
      ->check(CLI::Range(0.0, 1e4))
      ->capture_default_str();
  command
      ->add_option("--events", o.events,
                   "Of a window; of a step on average (half to one and a half times as many)")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  command->add_option("--deadline-ms", o.deadline_ms, "Named with every request")
      ->check(CLI::PositiveNumber);
  command->add_flag("--best-effort", o.best_effort, "Late answers are wanted as well");
  command->add_option("--seed", o.seed, "Of the events and arrivals")->capture_default_str();
  command->add_flag("--echo", o.echo,
                    "A bare echo of the same bytes takes turns with the server, a second each, and "
                    "is subtracted");
  command->add_option("--verify", o.verify,
                      "Model file: replay every stream from it and compare the bits; compare every "
                      "window");
  command->add_option("--api-key-file", flags->api_key_file, "Key of a server that asks for one");
  command
      ->add_option("--tls-ca", o.tls_ca_file,
                   "PEM of whom to trust, for https; default: the system's")
      ->check(CLI::ExistingFile);
  command->add_flag("--json", flags->json, "Print one JSON object on standard output");
  command->footer(
      "A latency counts from when a request was due, not from when it could be sent: a server "
      "that\n"
      "holds the generator up does not hide it. Exit code 1: a wrong answer; no server, model\n"
      "or session; no request answered or refused for its deadline or a limit.\n"
      "Example:\n"
      "  cortex load --url http://127.0.0.1:8080 --sessions 64 --seconds 60 --verify "
      "m.safetensors\n"
      "  cortex load --url http://127.0.0.1:8080 --windows --rate 500 --deadline-ms 20");
  command->callback([flags] { load(*flags); });
}

}  // namespace cortex
