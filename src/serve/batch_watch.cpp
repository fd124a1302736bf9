#include "serve/batch_watch.h"

#include <utility>

namespace cortex {

void BatchWatch::answered(Tracer& tracer, const BatchInfo& batch, TimeNs started_ns,
                          RequestTrace& trace, const std::string& model) {
  if (batch.id == 0) return;
  if (open_.batch != batch.id) {
    flush(tracer);
    open_ = {.context = tracer.fresh(),
             .model = model,
             .batch = batch.id,
             .size = batch.size,
             .started_ns = started_ns,
             .computed_ns = batch.computed_ns};
  }
  trace.record.batch_span = open_.context;
  open_.links.push_back(trace.record.context);
}

void BatchWatch::flush(Tracer& tracer) {
  if (!open_.links.empty()) tracer.queue().push(std::move(open_));
  open_ = {};
}

}  // namespace cortex
