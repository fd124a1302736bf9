#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "commands.h"
#include "data/nwb.h"
#include "export_session.h"

namespace cortex {
namespace {

struct ExportFlags {
  std::string file;
  std::string out;
  std::optional<std::uint64_t> session;
};

const record::RecordedSession& choose(const record::FlightLog& log, const ExportFlags& flags) {
  if (flags.session) {
    if (const auto* found = log.find(*flags.session)) return *found;
  } else if (log.sessions.size() == 1) {
    return log.sessions.front();
  }
  std::string all;
  for (const record::RecordedSession& session : log.sessions)
    all +=
        fmt::format("{}{} ({} steps)", all.empty() ? "" : ", ", session.id, session.steps.size());
  throw Exception{{ErrorCode::not_found,
                   fmt::format("{}: {}; it holds {}", flags.file,
                               flags.session ? fmt::format("no session {}", *flags.session)
                                             : "say which --session",
                               all.empty() ? "no session" : "session " + all),
                   "session"}};
}

void run_export(const ExportFlags& flags) {
  const record::FlightLog log = record::read_flight_log(flags.file).value_or_throw();
  const Recording recording = to_recording(log, choose(log, flags)).value_or_throw();
  write_nwb(flags.out, recording).value_or_throw();
  for (const std::string& gap : log.gaps()) std::cout << gap << '\n';
  std::cout << recording.description << '\n';
  std::cout << fmt::format("{}: {} spikes of {} units, {} series\n", flags.out,
                           recording.spike_count(), recording.units.size(),
                           recording.behavior.size());
}

}  // namespace

void add_export(CLI::App& app) {
  auto flags = std::make_shared<ExportFlags>();
  CLI::App* command =
      app.add_subcommand("export", "Write a session of a flight log as an NWB recording");
  command->add_option("file", flags->file, "Flight log of cortex serve --record")->required();
  command->add_option("--out", flags->out, "NWB file to write")->required();
  command->add_option("--session", flags->session, "Which, where the log holds several");
  command->footer(
      "Example:\n"
      "  cortex export logs/20260102T030405Z-arm.cortexlog --out session.nwb");
  command->callback([flags] { run_export(*flags); });
}

}  // namespace cortex
