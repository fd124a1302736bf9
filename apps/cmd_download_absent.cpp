#include <CLI/CLI.hpp>

#include "commands.h"

namespace cortex {

void add_download(CLI::App& app) {
  CLI::App* command =
      app.add_subcommand("download", "Download recordings from DANDI (not in this build).");
  command->footer("Example: install libcurl4-openssl-dev, then\n  make build");
  command->allow_extras();
  command->callback([] {
    throw Exception{{ErrorCode::unsupported,
                     "this build has no 'download': it was configured without libcurl (Debian: "
                     "libcurl4-openssl-dev)",
                     "download"}};
  });
}

}  // namespace cortex
