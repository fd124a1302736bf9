#include <CLI/CLI.hpp>

#include "run_program.h"
#include "train_commands.h"

int main(int argc, char** argv) {
  CLI::App app{"Training and evaluation of neural decoders.", "cortex-train"};
  app.set_version_flag("--version", "cortex-train " CORTEX_VERSION);
  app.footer(
      "Exit codes: 0, 1 failed, 2 usage.\n"
      "Example:\n  cortex-train train --nwb session.nwb --out model.safetensors --minutes 10");
  cortex::add_train(app);
  cortex::add_pretrain(app);
  cortex::add_adapt(app);
  cortex::add_evaluate(app);
  cortex::add_ridge(app);
  cortex::add_kalman(app);
  cortex::add_compare(app);
  cortex::add_import(app);
  cortex::add_reference(app);
  // The library checks most flags itself.
  return cortex::run_program(app, argc, argv, cortex::kUsage);
}
