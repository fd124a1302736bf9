#pragma once

#include <CLI/App.hpp>

namespace cortex {

inline constexpr int kFailed = 1;
inline constexpr int kUsage = 2;

/// Parses, runs the chosen subcommand's callback and turns what it throws into one line on standard
/// error and the exit code: 0, 1 failed, 2 usage. `bad_argument`: the code of an invalid_argument
/// that a callback found.
int run_program(CLI::App& app, int argc, char** argv, int bad_argument);

}  // namespace cortex
