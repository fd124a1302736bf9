#pragma once

#include <cortex/engine.h>

#include <string>
#include <vector>

#include "core/log.h"
#include "serve/server.h"

namespace CLI {
class App;
}

namespace cortex {

/// The flags of `cortex serve`.
struct ServeFlags {
  EngineOptions engine;
  ServerOptions server;
  log::Options log;
  std::vector<std::string> models;  ///< PATH or NAME=PATH
  std::string policy = "edf";
  std::string log_level = "info";
  int warmup_iters = 0;
  std::string record_dir;  ///< empty: nothing is recorded
  int record_buffer_mb = 16;
  int record_sync_ms = 100;

  void add_to(CLI::App& command);
  /// What follows from several flags together; throws what is wrong with them.
  void settle();

 private:
  void add_models(CLI::App& command);
  void add_limits(CLI::App& command);
  void add_access(CLI::App& command);
  void add_records(CLI::App& command);
  void add_recorder(CLI::App& command);
};

}  // namespace cortex
