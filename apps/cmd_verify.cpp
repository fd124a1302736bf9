#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "commands.h"
#include "core/json_writer.h"
#include "record/verify.h"

namespace cortex {
namespace {

using record::FlightLog;
using record::SessionVerdict;

struct VerifyFlags {
  std::string file;
  std::string model;
  std::string device;
  std::optional<std::uint64_t> session;
  bool json = false;
};

/// The device that a backend's name begins with: "cpu", "cuda:0".
std::string device_of(const std::string& backend) { return backend.substr(0, backend.find(' ')); }

std::unique_ptr<Engine> load_engine(const VerifyFlags& flags, const FlightLog& log) {
  EngineOptions options;
  options.model_path = flags.model.empty() ? log.model.path : flags.model;
  options.device = flags.device.empty() ? device_of(log.model.backend) : flags.device;
  options.max_sessions = 1;
  options.max_batch = 1;
  auto engine = Engine::create(options).value_or_throw();
  if (engine->model().digest != log.model.digest)
    throw Exception{{ErrorCode::invalid_argument,
                     fmt::format("{} is not the model of the log: its digest is {}, the log's {} "
                                 "(give --model FILE)",
                                 options.model_path, engine->model().digest, log.model.digest),
                     "model"}};
  return engine;
}

std::string as_json(const FlightLog& log, const Engine& engine,
                    const std::vector<SessionVerdict>& verdicts, bool same) {
  JsonWriter w;
  w.begin_object().key("file").value(log.name).key("model").value(log.model.path);
  w.key("digest").value(log.model.digest).key("recorded_on").value(log.model.backend);
  w.key("replayed_on").value(engine.model().backend).key("same").value(same);
  w.key("blocks").value(log.blocks).key("lost").value(log.lost).key("cut");
  log.cut ? w.value(*log.cut) : w.null();
  w.key("ended").value(log.ended);
  w.key("sessions").begin_array();
  for (const SessionVerdict& v : verdicts) {
    w.begin_object().key("session").value(std::uint64_t{v.session}).key("steps").value(v.steps);
    w.key("equal").value(v.equal).key("withheld").value(v.withheld);
    w.key("unanswered").value(v.unanswered).key("unknown").value(v.unknown);
    w.key("first_difference");
    if (v.difference)
      w.begin_object()
          .key("step")
          .value(v.difference->sequence)
          .key("what")
          .value(v.difference->what)
          .end_object();
    else
      w.null();
    w.end_object();
  }
  w.end_array().end_object();
  return w.text();
}

std::string as_line(const SessionVerdict& v) {
  std::string line = fmt::format("session {}: ", v.session);
  if (v.difference)
    return line + fmt::format("step {} differs first: {}; {} answers before it have the same bits",
                              v.difference->sequence, v.difference->what, v.equal);
  line += fmt::format("{} of {} steps have the same bits", v.equal, v.steps);
  if (v.withheld > 0) line += fmt::format(", {} had no output", v.withheld);
  if (v.unanswered > 0) line += fmt::format(", {} have no answer in the log", v.unanswered);
  if (v.unknown > 0) line += fmt::format(", {} depend on steps that were lost", v.unknown);
  return line;
}

void print_for_a_person(const FlightLog& log, const Engine& engine,
                        const std::vector<SessionVerdict>& verdicts) {
  std::cout << fmt::format("{}: {}, {} on {}, {} blocks\n", log.name, log.model.path,
                           log.model.precision, log.model.backend, log.blocks);
  if (engine.model().backend != log.model.backend)
    std::cout << fmt::format("replayed on {}: other bits are to be expected\n",
                             engine.model().backend);
  for (const std::string& gap : log.gaps()) std::cout << gap << '\n';
  for (const SessionVerdict& verdict : verdicts) std::cout << as_line(verdict) << '\n';
}

void run_verify(const VerifyFlags& flags) {
  const FlightLog log = record::read_flight_log(flags.file).value_or_throw();
  const auto engine = load_engine(flags, log);
  std::vector<SessionVerdict> verdicts;
  bool same = true;
  for (const record::RecordedSession& session : log.sessions) {
    if (flags.session && session.id != *flags.session) continue;
    verdicts.push_back(record::verify(log, session, *engine).value_or_throw());
    same = same && !verdicts.back().difference;
  }
  if (flags.session && verdicts.empty())
    throw Exception{{ErrorCode::not_found,
                     fmt::format("{}: no session {}", flags.file, *flags.session), "session"}};
  if (flags.json)
    std::cout << as_json(log, *engine, verdicts, same) << '\n';
  else
    print_for_a_person(log, *engine, verdicts);
  if (!same)
    throw Exception{{ErrorCode::corrupt_data,
                     fmt::format("{}: the replay differs from what was recorded", flags.file),
                     "file"}};
}

}  // namespace

void add_verify(CLI::App& app) {
  auto flags = std::make_shared<VerifyFlags>();
  CLI::App* command = app.add_subcommand(
      "verify", "Replay a flight log through the engine and compare every answer, bit for bit");
  command->add_option("file", flags->file, "Flight log of cortex serve --record")->required();
  command->add_option("--model", flags->model, "Model file; default: where it was");
  command->add_option("--device", flags->device, "cpu or cuda:N; default: as it was");
  command->add_option("--session", flags->session, "One session alone; default: all");
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer(
      "Exit code 1: a step differs, or the log is not what was written.\n"
      "Example:\n"
      "  cortex verify logs/20260102T030405Z-arm.cortexlog");
  command->callback([flags] { run_verify(*flags); });
}

}  // namespace cortex
