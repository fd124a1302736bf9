#include <CLI/CLI.hpp>

#include "commands.h"
#include "run_program.h"

int main(int argc, char** argv) {
  CLI::App app{"Real-time decoding of neural population activity.", "cortex"};
  app.set_version_flag("--version", "cortex " CORTEX_VERSION);
  app.footer(
      "Exit codes: 0, 1 failed, 2 usage.\n"
      "Example:\n  cortex simulate --out session.nwb && cortex inspect session.nwb");
  cortex::add_simulate(app);
  cortex::add_download(app);
  cortex::add_import(app);
  cortex::add_inspect(app);
  cortex::add_serve(app);
  cortex::add_replay(app);
  cortex::add_verify(app);
  cortex::add_export(app);
  cortex::add_doctor(app);
  cortex::add_quantize(app);
  cortex::add_profile(app);
  cortex::add_jitter(app);
  cortex::add_bench(app);
  cortex::add_load(app);
  cortex::add_tune(app);
  // What a callback calls invalid is mostly a file that does not fit another.
  return cortex::run_program(app, argc, argv, cortex::kFailed);
}
