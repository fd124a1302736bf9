#include <CLI/CLI.hpp>
#include <iostream>
#include <memory>

#include "commands.h"
#include "doctor.h"
#include "realtime_report.h"

namespace cortex {

void add_doctor(CLI::App& app) {
  struct Flags {
    DoctorOptions options;
    bool json = false;
  };
  auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "doctor",
      "What this machine has, and which presets keep a deadline of 10, 20 or 50 ms on it");
  command->add_option("--device", flags->options.device, kDeviceHelp)->capture_default_str();
  command->add_option("--seconds", flags->options.seconds, "About how long it may take")
      ->check(CLI::Range(1.0, 3600.0))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "Print one JSON object");
  command->footer(
      "A preset fits where p99 of its forwards, alone, and what the machine takes from one idle\n"
      "spin in a thousand are over within the deadline. Neither the network nor other sessions\n"
      "are in that; nor is accuracy, which docs/choosing.md compares.\n"
      "Example:\n"
      "  cortex doctor");
  command->callback([flags] {
    const DoctorReport report = examine(flags->options).value_or_throw();
    if (flags->json)
      std::cout << doctor_json(report) << '\n';
    else
      std::cout << doctor_text(report);
  });
}

}  // namespace cortex
