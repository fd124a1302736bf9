#include <cortex/result.h>

#include <CLI/CLI.hpp>
#include <exception>
#include <iostream>

#include "train_commands.h"

namespace {

constexpr int kFailed = 1;
constexpr int kUsage = 2;

int run(int argc, char** argv) {
  CLI::App app{"Training and evaluation of neural decoders."};
  app.name("cortex-train");
  app.set_version_flag("--version", "cortex-train " CORTEX_VERSION);
  app.footer(
      "Exit codes: 0, 1 failed, 2 usage.\n"
      "Example:\n  cortex-train train --nwb session.nwb --out model.safetensors --minutes 10");
  app.require_subcommand(0, 1);
  cortex::add_train(app);
  cortex::add_evaluate(app);
  cortex::add_ridge(app);
  cortex::add_import(app);
  cortex::add_reference(app);
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
    std::cerr << "cortex-train: " << failure.error.message << '\n';
    const bool usage = failure.error.code == cortex::ErrorCode::invalid_argument;
    return usage ? kUsage : kFailed;
  } catch (const std::exception& failure) {
    std::cerr << "cortex-train: " << failure.what() << '\n';
  }
  return kFailed;
}
