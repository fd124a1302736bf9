#pragma once

#include <cortex/client.h>

#include <cstdint>
#include <optional>
#include <string>

namespace cortex {

/// How requests arrive. clock: at even distances; poisson: at random; trace: at the times of a
/// file; closed: each when the one before it on its connection is answered.
enum class Arrivals { clock, poisson, trace, closed };

enum class Wire { http, json, binary };

struct LoadOptions {
  std::string url;    ///< of a server; empty: in process
  std::string model;  ///< in process
  std::string device = "auto";
  int batches_in_flight = 0;  ///< in process: EngineOptions::batches_in_flight
  int max_batch = 0;  ///< in process: steps or windows computed at once; 0: what suits the device
  std::string api_key;
  std::string tls_ca_file;
  bool windows = false;  ///< stateless windows instead of sessions
  int sessions = 1;
  int generators = 1;   ///< threads that share the sessions
  int poll_us = 0;      ///< how long one of them polls before it sleeps
  int connections = 8;  ///< of windows
  Wire wire = Wire::binary;
  Arrivals arrivals = Arrivals::clock;
  double rate_hz = 0;  ///< of one session (0: the model's) or of all windows together
  std::string trace;   ///< a time in seconds a line, from 0
  double seconds = 10;
  double warmup_s = 1;       ///< before them, not counted
  double drain_s = 5;        ///< the longest wait after them for what is outstanding
  int events = 32;           ///< of a window; of a step half to one and a half times as many
  bool even_events = false;  ///< of every step the same number
  double deadline_ms = 0;    ///< 0: none named
  bool best_effort = false;
  std::uint64_t seed = 1;
  bool echo = false;   ///< a bare echo of the same bytes takes turns with the server
  std::string verify;  ///< model file to compare every answer with

  bool in_process() const { return url.empty(); }
  std::optional<double> deadline() const {
    return deadline_ms > 0 ? std::optional(deadline_ms) : std::nullopt;
  }
};

/// What the generator needs to know of the model.
struct LoadFacts {
  std::string name;
  std::string kind;
  std::string digest;
  double step_ms = 0;
  int bins_per_step = 1;
  int units = 0;
  int bins = 0;        ///< of a window
  int max_events = 0;  ///< of a step or window
  int outputs = 0;
};

}  // namespace cortex
