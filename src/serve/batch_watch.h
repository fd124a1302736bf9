#pragma once

#include <cortex/engine.h>

#include <string>

#include "serve/request_trace.h"

namespace cortex {

/// Puts the traced answers of one engine together again by batch, so that a batch becomes one span
/// that links to all its traced requests. Answers come in the order of their batches. Network
/// thread.
class BatchWatch {
 public:
  void answered(Tracer& tracer, const BatchInfo& batch, TimeNs started_ns, RequestTrace& trace,
                const std::string& model);
  /// Ends the last batch; called now and then, since no answer may follow.
  void flush(Tracer& tracer);

 private:
  BatchRecord open_;
};

}  // namespace cortex
