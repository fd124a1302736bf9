#pragma once

#include <cortex/engine.h>

#include <optional>
#include <string_view>
#include <vector>

#include "core/clock.h"
#include "serve/serve_state.h"

namespace cortex {

/// What a sink keeps of an answer until the network thread takes it.
struct KeptAnswer {
  std::vector<float> behavior;  // with room for all outputs, so that keeping allocates nothing
  StepStatus status = StepStatus::fresh;
  std::int64_t dropped_events = 0;
  TimeNs submitted_ns = 0;
  TimeNs started_ns = 0;
  TimeNs finished_ns = 0;
  BatchInfo batch;
  std::optional<Error> error;

  void keep(const StepAnswer& answer);
  void keep(const WindowAnswer& answer, TimeNs deadline_ns);
};

/// Counts an answer and puts what is known of its times into `trace` (null: not followed). Network
/// thread, in the order of the answers.
void record_answer(ServeState& state, ServedModel& model, std::string_view endpoint,
                   const KeptAnswer& answer, TimeNs arrived_ns, const TracePtr& trace);

}  // namespace cortex
