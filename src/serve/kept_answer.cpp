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

}  // namespace

void KeptAnswer::keep(const StepAnswer& answer) {
  keep_common(*this, answer);
  status = answer.status;
  dropped_events = answer.dropped_events;
}

void KeptAnswer::keep(const WindowAnswer& answer, TimeNs deadline_ns) {
  keep_common(*this, answer);
  status = answer.finished_ns > deadline_ns ? StepStatus::late : StepStatus::fresh;
}

void record_answer(ServeState& state, ServedModel& model, std::string_view endpoint,
                   const KeptAnswer& answer, TimeNs arrived_ns, const TracePtr& trace) {
  int status = 200;
  if (answer.error) {
    status = http_status(answer.error->code);
    state.metrics.failed(endpoint, status, to_string(answer.error->code));
  } else {
    if (answer.status == StepStatus::refused) status = http_status(ErrorCode::deadline_exceeded);
    state.metrics.count(endpoint, status);
    state.metrics.request_latency.record(RealClock::instance().now() - arrived_ns);
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
