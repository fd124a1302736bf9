#pragma once

#include <cortex/engine.h>

#include <memory>
#include <span>
#include <string>

#include "replay_trace.h"

namespace cortex {

/// One session of a decoder, wherever it runs.
class ReplayDecoder {
 public:
  struct Answer {
    std::span<const float> behavior;  ///< [outputs], valid until the next step; empty: withheld
  };

  virtual ~ReplayDecoder() = default;
  virtual const DecoderInfo& info() const = 0;
  /// Blocks until the velocity is there. `deadline_ns` is on CLOCK_MONOTONIC.
  virtual Result<Answer> step(std::int64_t sequence, std::span<const Event> events,
                              std::int64_t deadline_ns) = 0;
  virtual Result<void> close() = 0;

  /// What real-time mode was granted; empty where it was not asked for.
  virtual std::span<const RealtimeGrant> realtime() const { return {}; }

  /// An engine in this process.
  static Result<std::unique_ptr<ReplayDecoder>> load(const std::string& model_path,
                                                     bool realtime = false);
  /// A server, e.g. "ws://127.0.0.1:8080".
  static Result<std::unique_ptr<ReplayDecoder>> connect(const std::string& url,
                                                        const std::string& api_key);
};

}  // namespace cortex
