#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/json_writer.h"
#include "serve/event_rules.h"
#include "serve/router.h"
#include "serve/stream_socket.h"

namespace cortex {
namespace {

constexpr std::uint16_t kNormalClosure = 1000;
constexpr std::uint16_t kGoingAway = 1001;
/// How long a frame is offered to a full engine before it is refused, and how often.
constexpr TimeNs kRetryForNs = 5'000'000'000;
constexpr std::chrono::milliseconds kRetryEvery{1};

ApiError lost_session() {
  return ApiError(Error{ErrorCode::not_found,
                        "the session was lost: it was idle for too long or closed. Send an open "
                        "frame or connect again to start a new one",
                        "sequence_number"});
}

}  // namespace

std::shared_ptr<SocketHandler> make_stream_socket(ServeState& state) {
  return std::make_shared<StreamSocket>(state);
}

StreamSocket::StreamSocket(ServeState& state)
    : state_(state), capacity_(std::max(1, state.options.max_queued_steps)) {
  slots_ = std::make_unique<Slot[]>(static_cast<std::size_t>(capacity_));
  for (int i = 0; i < capacity_; ++i) {
    slots_[i].owner = this;
    slots_[i].behavior.reserve(model().outputs.size());
  }
  units_ = model().unit_ids.size();
}

void StreamSocket::Slot::on_step(const StepAnswer& answer) noexcept {
  behavior.assign(answer.behavior.begin(), answer.behavior.end());
  status = answer.status;
  dropped_events = answer.dropped_events;
  submitted_ns = answer.submitted_ns;
  started_ns = answer.started_ns;
  finished_ns = answer.finished_ns;
  if (answer.error != nullptr) error = *answer.error;
  owner->state_.mailbox.post(*this);
}

void StreamSocket::Slot::on_window(const WindowAnswer& answer) noexcept {
  behavior.assign(answer.behavior.begin(), answer.behavior.end());
  status = answer.finished_ns > deadline_ns ? StepStatus::late : StepStatus::fresh;
  submitted_ns = answer.submitted_ns;
  started_ns = answer.started_ns;
  finished_ns = answer.finished_ns;
  if (answer.error != nullptr) error = *answer.error;
  owner->state_.mailbox.post(*this);
}

bool StreamSocket::on_message(const SocketMessage& message) {
  if (closing_) return true;
  if (count_ == capacity_) return false;
  if (!message.is_text) {
    reply_error(ApiError(415, "unsupported_media_type", "frames are JSON text, not binary"), {});
    return true;
  }
  if (const auto error = not_serving(state_)) {
    reply_error(*error, {});
    return true;
  }
  const auto frame = state_.parser.stream(message.text);
  if (!frame) {
    reply_error(frame.error(), state_.parser.last_sequence());
    return true;
  }
  switch (frame->kind) {
    case StreamFrame::Kind::open:
      take_open(frame->open);
      return true;
    case StreamFrame::Kind::close:
      closing_ = true;
      if (count_ == 0) finish_close();
      return true;
    case StreamFrame::Kind::step:
      break;
  }
  return is_stream() ? take_step(frame->step, message.arrived_ns)
                     : take_window(frame->step, message.arrived_ns);
}

void StreamSocket::take_open(const OpenFrame& frame) {
  if (is_open_)
    return reply_error(Error{ErrorCode::invalid_argument, "the session is open already", "open"},
                       {});
  if (is_stream()) {
    const auto opened = open_session(frame.options);
    if (!opened) return reply_error(opened.error(), {});
  }
  is_open_ = true;
  deadline_ms_ = frame.deadline_ms;
  best_effort_ = frame.best_effort;
  reply(opened_text());
}

Result<void> StreamSocket::open_session(const SessionOptions& options) {
  auto info = state_.engine->open_session(options);
  if (!info) {
    Error error = info.error();
    if (error.field == "units" || error.field == "first_step") error.field = "open." + error.field;
    return error;
  }
  session_ = info->id;
  next_ = info->next_step;
  units_ = options.unit_ids.empty() ? model().unit_ids.size() : options.unit_ids.size();
  drop_out_of_step_ = options.drop_out_of_step;
  is_open_ = true;
  is_lost_ = false;
  return {};
}

std::optional<ApiError> StreamSocket::check_order(const StepFrame& frame) const {
  const std::int64_t expected = next_ + frame.gap;
  if (frame.sequence == expected) return std::nullopt;
  ApiError error(Error{ErrorCode::out_of_order, "", "sequence_number"});
  error.expected = expected;
  if (frame.gap > 0)
    error.message =
        fmt::format("sequence_number = {} with gap = {}: expected {}, the next step is {}",
                    frame.sequence, frame.gap, expected, next_);
  else if (frame.sequence > expected)
    error.message = fmt::format(
        "sequence_number = {}: expected {}; say gap: {} if the steps between were silent",
        frame.sequence, expected, frame.sequence - expected);
  else
    error.message = fmt::format("sequence_number = {}: expected {}", frame.sequence, expected);
  return error;
}

StreamSocket::Slot& StreamSocket::prepare_slot(const StepFrame& frame, TimeNs arrived_ns) {
  Slot& slot = next_slot();
  slot.done = false;
  slot.error.reset();
  slot.dropped_events = 0;
  slot.sequence = frame.sequence;
  slot.arrived_ns = arrived_ns;
  slot.deadline_ns = kNoDeadline;
  return slot;
}

bool StreamSocket::take_step(const StepFrame& frame, TimeNs arrived_ns) {
  const auto refuse = [&](const ApiError& error) {
    reply_error(error, frame.sequence);
    return true;
  };
  // Everything is checked before a session is opened on the client's behalf.
  if (is_lost_) return refuse(lost_session());
  if (const auto error = check_order(frame)) return refuse(*error);
  const auto checked = check_step(frame.events, frame.sequence, units_, drop_out_of_step_, model());
  if (!checked) return refuse(checked.error());
  if (!is_open_) {
    const auto opened = open_session({});
    if (!opened) return refuse(opened.error());
  }
  // Whoever names a deadline wants no answer after it. Without one the step itself is the deadline
  // and a late answer says so.
  std::optional<double> named = frame.deadline_ms ? frame.deadline_ms : deadline_ms_;
  if (!named && state_.options.deadline_ms > 0) named = state_.options.deadline_ms;
  const std::optional<bool> asked = frame.best_effort ? frame.best_effort : best_effort_;
  Slot& slot = prepare_slot(frame, arrived_ns);
  slot.deadline_ns = deadline_at(arrived_ns, named.value_or(model().step_ms));
  const auto submit =
      state_.engine->submit(StepRequest{.session = session_,
                                        .sequence = frame.sequence,
                                        .gap = frame.gap,
                                        .events = frame.events,
                                        .deadline_ns = slot.deadline_ns,
                                        .best_effort = asked.value_or(!named.has_value())},
                            slot);
  if (!submit) return submit_failed(submit.error(), frame.sequence);
  next_ = frame.sequence + 1;
  submitted();
  return true;
}

bool StreamSocket::take_window(const StepFrame& frame, TimeNs arrived_ns) {
  const auto refuse = [&](const ApiError& error) {
    reply_error(error, frame.sequence);
    return true;
  };
  if (frame.gap != 0)
    return refuse(Error{ErrorCode::invalid_argument,
                        "gap means nothing to a window model: each frame is a window", "gap"});
  const auto checked = check_window(frame.events, model());
  if (!checked) return refuse(checked.error());
  std::optional<double> named = frame.deadline_ms ? frame.deadline_ms : deadline_ms_;
  if (!named && state_.options.deadline_ms > 0) named = state_.options.deadline_ms;
  Slot& slot = prepare_slot(frame, arrived_ns);
  if (named) slot.deadline_ns = deadline_at(arrived_ns, *named);
  const auto submit = state_.engine->submit(
      WindowRequest{.events = frame.events,
                    .deadline_ns = slot.deadline_ns,
                    .best_effort = frame.best_effort.value_or(best_effort_.value_or(false))},
      slot);
  if (!submit) return submit_failed(submit.error(), frame.sequence);
  is_open_ = true;
  submitted();
  return true;
}

void StreamSocket::submitted() {
  retrying_ = false;
  ++count_;
  if (in_flight_++ == 0) keep_alive_ = shared_from_this();
}

bool StreamSocket::submit_failed(const Error& error, std::int64_t sequence) {
  const TimeNs now = RealClock::instance().now();
  if (error.code == ErrorCode::resource_exhausted) {
    if (!retrying_) retry_until_ns_ = now + kRetryForNs;
    retrying_ = now < retry_until_ns_;
    if (retrying_) {
      // With steps in flight the next answer offers the frame again.
      if (in_flight_ == 0)
        state_.after(kRetryEvery, [weak = weak_from_this()] {
          const auto self = weak.lock();
          if (self && self->peer_ != nullptr) self->peer_->resume();
        });
      return false;
    }
  }
  retrying_ = false;
  if (error.code == ErrorCode::not_found) {
    is_open_ = false;
    is_lost_ = true;
    reply_error(lost_session(), sequence);
  } else {
    reply_error(error, sequence);
  }
  return true;
}

void StreamSocket::delivered(Slot& slot) {
  const auto guard = shared_from_this();
  if (--in_flight_ == 0) keep_alive_.reset();
  if (peer_ == nullptr) return;
  const TimeNs now = RealClock::instance().now();
  record(slot, now);
  if (slot.error) {
    if (is_stream()) {
      is_open_ = false;
      is_lost_ = true;
    }
    slot.text = socket_error(ApiError(*slot.error), slot.sequence);
  } else {
    slot.text = answer_text(slot);
  }
  slot.done = true;
  flush();
}

void StreamSocket::record(const Slot& slot, TimeNs now) {
  if (slot.error) {
    const ApiError error(*slot.error);
    ++state_.metrics.errors[error.code];
    state_.metrics.count("/stream", error.status);
    if (!is_stream()) ++windows_.refused;
    return;
  }
  const bool refused = slot.status == StepStatus::refused;
  state_.metrics.count("/stream", refused ? http_status(ErrorCode::deadline_exceeded) : 200);
  state_.metrics.request_latency.record(now - slot.arrived_ns);
  state_.metrics.queue_wait.record(slot.started_ns - slot.submitted_ns);
  state_.metrics.inference.record(slot.finished_ns - slot.started_ns);
  if (is_stream()) return;
  ++windows_.steps;
  if (slot.status == StepStatus::late) ++windows_.late;
  window_latency_.record(slot.finished_ns - slot.submitted_ns);
}

std::string StreamSocket::answer_text(const Slot& slot) {
  JsonWriter w;
  w.begin_object().key("sequence_number").value(slot.sequence).key("behavior");
  if (slot.status == StepStatus::refused) {
    w.null();
  } else {
    w.begin_array();
    for (const float v : slot.behavior) w.value(v);
    w.end_array();
  }
  w.key("latency_ms").value(to_ms(RealClock::instance().now() - slot.arrived_ns));
  w.key("status").value(to_string(slot.status));
  w.key("queue_wait_ms").value(to_ms(slot.started_ns - slot.submitted_ns));
  w.key("inference_ms").value(to_ms(slot.finished_ns - slot.started_ns));
  if (drop_out_of_step_) w.key("dropped_events").value(slot.dropped_events);
  w.end_object();
  return w.text();
}

void StreamSocket::reply(std::string text) {
  if (count_ == 0) {
    if (peer_ != nullptr) peer_->send(std::move(text));
    return;
  }
  Slot& slot = next_slot();
  slot.text = std::move(text);
  slot.done = true;
  ++count_;
}

void StreamSocket::reply_error(const ApiError& error, std::optional<std::int64_t> sequence) {
  ++state_.metrics.errors[error.code];
  state_.metrics.count("/stream", error.status);
  reply(socket_error(error, sequence));
}

void StreamSocket::flush() {
  while (count_ > 0 && slots_[head_].done) {
    Slot& slot = slots_[head_];
    head_ = (head_ + 1) % capacity_;
    --count_;
    peer_->send(std::move(slot.text));
    if (peer_ == nullptr) return;
  }
  if (count_ == 0 && closing_) return finish_close();
  if (count_ == 0 && state_.draining) return on_drain();
  peer_->resume();
}

void StreamSocket::finish_close() {
  SessionSummary summary = windows_;
  if (is_stream()) {
    summary = {};
    if (is_open_) {
      auto closed = state_.engine->close_session(session_);
      if (closed) summary = *closed;
    }
  } else {
    summary.p50_us = static_cast<double>(window_latency_.quantile_ns(0.5)) * 1e-3;
    summary.p99_us = static_cast<double>(window_latency_.quantile_ns(0.99)) * 1e-3;
    summary.p999_us = static_cast<double>(window_latency_.quantile_ns(0.999)) * 1e-3;
    summary.max_us = static_cast<double>(window_latency_.max_ns()) * 1e-3;
  }
  is_open_ = false;
  is_lost_ = true;
  peer_->send(closed_text(summary));
  if (peer_ != nullptr) peer_->close(kNormalClosure, "closed");
}

void StreamSocket::on_drain() {
  if (count_ == 0 && !closing_ && peer_ != nullptr)
    peer_->close(kGoingAway, "the server is shutting down");
}

void StreamSocket::on_closed() {
  peer_ = nullptr;
  if (is_open_ && is_stream()) {
    // Takes the queued steps with it; their slots come back with an error.
    [[maybe_unused]] const auto closed = state_.engine->close_session(session_);
  }
  is_open_ = false;
}

std::string StreamSocket::opened_text() const {
  const ModelInfo& m = model();
  JsonWriter w;
  w.begin_object().key("opened").begin_object();
  w.key("session_id").value(fmt::format("{}", session_)).key("kind").value(m.kind);
  w.key("bin_ms").value(m.bin_ms);
  if (is_stream()) {
    w.key("step_ms").value(m.step_ms).key("bins_per_step").value(m.bins_per_step);
    w.key("sequence_number").value(next_).key("units").value(static_cast<std::int64_t>(units_));
    w.key("target_offset_ms").value(m.target_offset_ms);
  } else {
    w.key("max_bins").value(m.max_bins).key("units").value(m.max_neurons);
  }
  w.key("max_events").value(m.max_events).key("max_queued_steps").value(capacity_);
  w.key("outputs").begin_array();
  for (const OutputInfo& output : m.outputs)
    w.begin_object().key("name").value(output.name).key("unit").value(output.unit).end_object();
  w.end_array();
  w.key("model").begin_object().key("preset").value(m.preset).key("precision").value(m.precision);
  w.key("digest").value(m.digest).end_object();
  w.end_object().end_object();
  return w.text();
}

std::string StreamSocket::closed_text(const SessionSummary& summary) const {
  JsonWriter w;
  w.begin_object().key("closed").begin_object();
  w.key("steps").value(summary.steps).key("late").value(summary.late);
  w.key("refused").value(summary.refused);
  w.key("misses").value(summary.late + summary.refused);
  w.key("dropped_events").value(summary.dropped_events);
  w.key("latency_us").begin_object();
  w.key("p50").value(summary.p50_us).key("p99").value(summary.p99_us);
  w.key("p999").value(summary.p999_us).key("max").value(summary.max_us);
  w.end_object().end_object().end_object();
  return w.text();
}

}  // namespace cortex
