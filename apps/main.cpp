#include <cortex/result.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "commands.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

int run(int argc, char** argv) {
  CLI::App app{"Real-time decoding of neural population activity."};
  app.name("cortex");
  app.set_version_flag("--version", "cortex " CORTEX_VERSION);
  app.footer(
      "Exit codes: 0, 1 failed, 2 usage.\n"
      "Example:\n  cortex simulate --out session.nwb && cortex inspect session.nwb");
  app.require_subcommand(0, 1);
  cortex::add_simulate(app);
  cortex::add_inspect(app);
  cortex::add_serve(app);
  cortex::add_replay(app);
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

int main(int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const cortex::Exception& failure) {
    std::cerr << "cortex: " << failure.error.message << '\n';
  } catch (const std::exception& failure) {
    std::cerr << "cortex: " << failure.what() << '\n';
  }
  return kFailed;
}
