#include "load_engine_port.h"

#include <utility>

#include "core/clock.h"

namespace cortex {

EnginePort::EnginePort(Engine& engine, EngineMail& mail, SessionId session, int slots,
                       const LoadOptions& options)
    : engine_(engine),
      session_(session),
      deadline_ms_(options.deadline_ms),
      best_effort_(options.best_effort) {
  for (int i = 0; i < slots; ++i) {
    slots_.push_back(std::make_unique<Slot>());
    slots_.back()->owner = this;
    slots_.back()->mailbox = &mail.mailbox();
    slots_.back()->behavior.reserve(engine.model().outputs.size());
    free_.push_back(slots_.back().get());
  }
}

void EnginePort::Slot::post(const Error* failed, const BatchInfo& batch) noexcept {
  if (failed != nullptr) error = *failed;
  // The engine says when the answers of a batch are complete.
  mailbox->post(*this, batch.id == 0);
}

void EnginePort::Slot::on_step(const StepAnswer& answer) noexcept {
  behavior.assign(answer.behavior.begin(), answer.behavior.end());
  status = answer.status;
  latency_ns = answer.finished_ns - answer.submitted_ns;
  post(answer.error, answer.batch);
}

void EnginePort::Slot::on_window(const WindowAnswer& answer) noexcept {
  behavior.assign(answer.behavior.begin(), answer.behavior.end());
  status = StepStatus::fresh;
  latency_ns = answer.finished_ns - answer.submitted_ns;
  post(answer.error, answer.batch);
}

std::int64_t EnginePort::deadline() const {
  if (deadline_ms_ <= 0) return kNoDeadline;
  return RealClock::instance().now() + static_cast<TimeNs>(deadline_ms_ * 1e6);
}

void EnginePort::send(const LoadRequest& request) {
  if (free_.empty()) {
    waiting_.push_back({request.sequence, {request.events.begin(), request.events.end()}});
    return;
  }
  Slot& slot = *free_.back();
  free_.pop_back();
  submit(slot, request.sequence, request.events);
}

void EnginePort::submit(Slot& slot, std::int64_t sequence, std::span<const Event> events) {
  slot.sequence = sequence;
  slot.error.reset();
  const auto taken = session_ != 0 ? engine_.submit(StepRequest{.session = session_,
                                                                .sequence = sequence,
                                                                .events = events,
                                                                .deadline_ns = deadline(),
                                                                .best_effort = best_effort_},
                                                    static_cast<StepSink&>(slot))
                                   : engine_.submit(WindowRequest{.events = events,
                                                                  .deadline_ns = deadline(),
                                                                  .best_effort = best_effort_},
                                                    static_cast<WindowSink&>(slot));
  // A refusal comes the way that answers come: nobody is called from within send().
  if (!taken) slot.post(&taken.error(), {});
}

void EnginePort::delivered(Slot& slot) {
  LoadReply reply;
  if (slot.error) {
    reply.error = to_string(slot.error->code);
    reply.message = slot.error->message;
  } else {
    reply.behavior = slot.behavior;
  }
  reply.sequence = slot.sequence;
  reply.status = slot.status;
  reply.latency_ms = static_cast<double>(slot.latency_ns) * 1e-6;
  if (on_reply) on_reply(reply);
  if (waiting_.empty()) {
    free_.push_back(&slot);
    return;
  }
  const Waiting next = std::move(waiting_.front());
  waiting_.pop_front();
  submit(slot, next.sequence, next.events);
}

void EnginePort::close() {
  if (session_ != 0) (void)engine_.close_session(session_);
}

}  // namespace cortex
