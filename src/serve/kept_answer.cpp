#include "serve/kept_answer.h"

#include "serve/api_error.h"

namespace cortex {
namespace {

template <class Answer>
void keep_common(KeptAnswer& kept, const Answer& answer) {
  kept.behavior.assign(answer.behavior.begin(), answer.behavior.end());
  kept.submitted_ns = answer.submitted_ns;
  kept.started_ns = answer.started_ns;
  kept.finished_ns = answer.finished_ns;
  kept.batch = answer.batch;
  if (answer.error != nullptr)
    kept.error = *answer.error;
  else
    kept.error.reset();
}

/// The engine was in time; the way from there was too long. A window that is late by the engine's
/// clock already and was wanted all the same is told by its status here, and counted there.
void miss(ServedModel& model, KeptAnswer& answer, const RequestTerms& terms) {
  const bool engine_saw_it = answer.finished_ns > terms.deadline_ns;
  if (terms.best_effort) {
    answer.status = StepStatus::late;
    model.late += engine_saw_it ? 0 : 1;
    return;
  }
  ++model.withheld;
  answer.behavior.clear();
  if (answer.is_step)
    answer.status = StepStatus::refused;
  else
    answer.error = Error{ErrorCode::deadline_exceeded,
                         "the answer would have come after its deadline", "deadline_ms"};
}

}  // namespace

void KeptAnswer::keep(const StepAnswer& answer) {
  keep_common(*this, answer);
  is_step = true;
  status = answer.status;
  dropped_events = answer.dropped_events;
}

void KeptAnswer::keep(const WindowAnswer& answer) {
  keep_common(*this, answer);
  is_step = false;
  status = StepStatus::fresh;
}

void hand_over(ServeState& state, ServedModel& model, std::string_view endpoint, KeptAnswer& answer,
               const RequestTerms& terms, const TracePtr& trace) {
  const TimeNs now = RealClock::instance().now();
  answer.latency_ns = now - terms.arrived_ns;
  if (!answer.error && answer.status == StepStatus::fresh && now > terms.deadline_ns)
    miss(model, answer, terms);
  int status = 200;
  if (answer.error) {
    status = http_status(answer.error->code);
    state.metrics.failed(endpoint, status, to_string(answer.error->code));
  } else {
    if (answer.status == StepStatus::refused) status = http_status(ErrorCode::deadline_exceeded);
    state.metrics.count(endpoint, status);
    state.metrics.request_latency.record(answer.latency_ns);
    state.metrics.queue_wait.record(answer.started_ns - answer.submitted_ns);
    state.metrics.inference.record(answer.finished_ns - answer.started_ns);
  }
  if (!trace) return;
  RequestRecord& record = trace->record;
  record.status = status;
  record.submitted_ns = answer.submitted_ns;
  record.started_ns = answer.started_ns;
  record.forward_ns = answer.batch.forward_ns;
  record.computed_ns = answer.batch.computed_ns;
  record.finished_ns = answer.finished_ns;
  record.batch = answer.batch.id;
  model.batches.answered(state.tracer, answer.batch, answer.started_ns, *trace, model.name);
}

}  // namespace cortex
