#pragma once

#include <CLI/App.hpp>
#include <functional>
#include <map>
#include <set>
#include <string>

namespace cortex {

/// Where the flags of a command may come from beside its command line. The flags themselves are the
/// schema: `--max-batch` in the section "serve" is the key `serve.max_batch` and the environment's
/// CORTEX_MAX_BATCH.
struct ConfigSchema {
  std::string section;                           ///< of flags in no group below
  std::map<std::string, std::string> sections;   ///< by the group of a flag
  std::map<std::string, std::string> variables;  ///< more names in the environment -> flag
  std::set<std::string> others;  ///< sections of other commands, which are passed over
  /// What the chosen preset says, by key, as --print-config shows it; called once all is known.
  std::function<std::map<std::string, std::string>()> preset = {};
};

/// Adds --config, --set and --print-config, after all flags of the command. Later wins: default,
/// preset, --config files in their order, environment, --set, flag. Throws CLI::ParseError: a
/// setting that is not one (naming the nearest) or that its flag does not take, with its place.
void add_configuration(CLI::App& command, const ConfigSchema& schema);

}  // namespace cortex
