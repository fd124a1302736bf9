#include "run_program.h"

#include <cortex/result.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

namespace cortex {
namespace {

int parse_and_run(CLI::App& app, int argc, char** argv) {
  app.require_subcommand(0, 1);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : kUsage;
  }
  if (app.get_subcommands().empty()) {
    std::cout << app.help();
    return kUsage;
  }
  return 0;
}

}  // namespace

int run_program(CLI::App& app, int argc, char** argv, int bad_argument) {
  try {
    return parse_and_run(app, argc, argv);
  } catch (const Exception& failure) {
    std::cerr << app.get_name() << ": " << failure.error.message << '\n';
    return failure.error.code == ErrorCode::invalid_argument ? bad_argument : kFailed;
  } catch (const std::exception& failure) {
    std::cerr << app.get_name() << ": " << failure.what() << '\n';
    return kFailed;
  }
}

}  // namespace cortex
