#pragma once

#include <cortex/engine.h>

#include <optional>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "serve/serve_state.h"

namespace cortex {

/// When a request came and until when its answer is wanted.
struct RequestTerms {
  TimeNs arrived_ns = 0;
  TimeNs deadline_ns = kNoDeadline;
  bool best_effort = false;  ///< a late answer is wanted as well
};

/// What a sink keeps of an answer until the network thread takes it.
struct KeptAnswer {
  std::vector<float> behavior;  // with room for all outputs, so that keeping allocates nothing
  StepStatus status = StepStatus::fresh;
  std::int64_t dropped_events = 0;
  TimeNs submitted_ns = 0;
  TimeNs started_ns = 0;
  TimeNs finished_ns = 0;
  TimeNs latency_ns = 0;  ///< as hand_over() read the clock
  bool is_step = false;
  BatchInfo batch;
  std::optional<Error> error;

  void keep(const StepAnswer& answer);
  void keep(const WindowAnswer& answer);
};

/// The last look at an answer before it is written, at one reading of the clock: whether it is
/// still in time (a step that is not is `refused` or `late`, a window an error or `late`), and the
/// latency that is told. Counts it and puts what is known of its times into `trace` (null: not
/// followed). Network thread, in the order of the answers.
void hand_over(ServeState& state, ServedModel& model, std::string_view endpoint, KeptAnswer& answer,
               const RequestTerms& terms, const TracePtr& trace);

}  // namespace cortex
