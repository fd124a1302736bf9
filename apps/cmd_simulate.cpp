#include <CLI/CLI.hpp>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "commands.h"
#include "core/json_writer.h"
#include "data/nwb.h"
#include "data/simulator.h"

namespace cortex {
namespace {

struct SimulateFlags {
  std::string out;
  SimulatorOptions options;
  bool json = false;
};

void run_simulate(const SimulateFlags& flags) {
  const SimulatorOptions& options = flags.options;
  const Recording recording = simulate(options).value_or_throw();
  write_nwb(flags.out, recording).value_or_throw();
  std::int64_t held_out = 0, val = 0;
  for (const Unit& unit : recording.units) held_out += unit.held_out ? 1 : 0;
  for (const Trial& trial : recording.trials) val += trial.split == "val" ? 1 : 0;
  if (flags.json) {
    JsonWriter w;
    w.begin_object().key("path").value(flags.out);
    w.key("population").value(options.population_seed).key("seed").value(options.session_seed);
    w.key("minutes").value(options.minutes).key("units").value(recording.units.size());
    w.key("held_out_units").value(held_out).key("spikes").value(recording.spike_count());
    w.key("trials").value(recording.trials.size()).key("val_trials").value(val).end_object();
    std::printf("%s\n", w.text().c_str());
    return;
  }
  std::printf("%s: population %llu, session %llu\n", flags.out.c_str(),
              static_cast<unsigned long long>(options.population_seed),
              static_cast<unsigned long long>(options.session_seed));
  std::printf("  %g min, %zu units (%lld held out), %lld spikes, %zu trials (%lld val)\n",
              options.minutes, recording.units.size(), static_cast<long long>(held_out),
              static_cast<long long>(recording.spike_count()), recording.trials.size(),
              static_cast<long long>(val));
}

}  // namespace

void add_simulate(CLI::App& app) {
  auto flags = std::make_shared<SimulateFlags>();
  CLI::App* command =
      app.add_subcommand("simulate", "Write an NWB session of a simulated reaching population.");
  command->add_option("--out", flags->out, "NWB file to write")->required();
  command->add_option("--units", flags->options.units, "units; fewer are a prefix of more")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command->add_option("--minutes", flags->options.minutes, "length of the session")
      ->check(CLI::Range(0.1, 1440.0))
      ->capture_default_str();
  command->add_option("--seed", flags->options.session_seed, "movement and spikes of the session")
      ->capture_default_str();
  command
      ->add_option("--population", flags->options.population_seed,
                   "the units: the same number gives the same units in every session")
      ->capture_default_str();
  command->add_option("--held-out", flags->options.held_out_fraction, "share of units held out")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_option("--val", flags->options.val_fraction, "share of trials in split 'val'")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  command->add_flag("--json", flags->json, "print one JSON object");
  command->footer(
      "Example: two days of one animal\n"
      "  cortex simulate --out day1.nwb --population 7 --seed 1 --minutes 10\n"
      "  cortex simulate --out day2.nwb --population 7 --seed 2");
  command->callback([flags] { run_simulate(*flags); });
}

}  // namespace cortex
