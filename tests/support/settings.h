#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "support/paths.h"
#include "support/process.h"
#include "support/text.h"

namespace cortex::testing {

/// A command that takes settings from files, the environment, --set and flags.
class Settings : public ::testing::Test {
 protected:
  /// `command`: a program and its subcommand.
  explicit Settings(std::vector<std::string> command) : command_(std::move(command)) {}

  /// With variables of the environment, NAME=VALUE each.
  Ran run(const std::vector<std::string>& arguments,
          const std::vector<std::string>& variables = {}) const {
    std::vector<std::string> all = {"env"};
    for (const auto* part : {&variables, &command_, &arguments})
      all.insert(all.end(), part->begin(), part->end());
    return testing::run(std::move(all));
  }
  std::string file(const std::string& name, const std::string& text) const {
    std::ofstream(folder_.file(name)) << text;
    return folder_.file(name);
  }
  /// What --print-config printed, less where each value came from.
  static std::string without_origins(const std::string& printed) {
    std::string kept;
    std::istringstream lines(printed);
    for (std::string line; std::getline(lines, line);)
      kept += line.substr(0, line.rfind("  #")) + "\n";
    return kept;
  }

  TempDir folder_;

 private:
  const std::vector<std::string> command_;
};

}  // namespace cortex::testing
