#include "serve/stream_socket.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "serve/access_log.h"
#include "serve/event_rules.h"

namespace cortex {
namespace {

constexpr std::uint16_t kNormalClosure = 1000;
constexpr std::uint16_t kGoingAway = 1001;
constexpr std::uint16_t kTryAgainLater = 1013;
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

StreamSocket::StreamSocket(ServeState& state, StreamOrigin origin, ModelRef model)
    : state_(state),
      origin_(std::move(origin)),
      model_name_(origin_.model),
      model_(std::move(model)),
      capacity_(std::max(1, state.options.max_queued_steps)) {
  slots_ = std::make_unique<Slot[]>(static_cast<std::size_t>(capacity_));
  for (int i = 0; i < capacity_; ++i) slots_[i].owner = this;
  meet_model();
}

void StreamSocket::meet_model() {
  is_stream_ = model().kind == "stream";
  units_ = is_stream_ ? model().unit_ids.size() : static_cast<std::size_t>(model().max_neurons);
  for (int i = 0; i < capacity_; ++i) slots_[i].answer.behavior.reserve(model().outputs.size());
}

void StreamSocket::Slot::on_step(const StepAnswer& kept) noexcept {
  answer.keep(kept);
  owner->state_.mailbox.post(*this);
}

void StreamSocket::Slot::on_window(const WindowAnswer& kept) noexcept {
  answer.keep(kept);
  owner->state_.mailbox.post(*this);
}

bool StreamSocket::on_message(const SocketMessage& message) {
  if (closing_ || is_behind_) return true;
  if (count_ == capacity_) return false;
  const bool taken = take_frame(message);
  if (taken) charged_ = false;
  return taken;
}

bool StreamSocket::take_frame(const SocketMessage& message) {
  is_text_ = message.is_text || !origin_.takes_binary;
  const auto refuse = [this](const ApiError& error, std::optional<std::int64_t> sequence) {
    reply_error(error, sequence);
    return true;
  };
  if (!message.is_text && !origin_.takes_binary)
    return refuse(ApiError(415, "unsupported_media_type",
                           "frames of /stream are JSON text; /v1/stream takes binary ones"),
                  {});
  if (state_.draining)
    return refuse(Error{ErrorCode::unavailable, "the server is shutting down", ""}, {});
  const auto frame =
      is_text_ ? state_.parser.stream(message.bytes) : state_.binary.stream(message.bytes);
  const auto sequence = is_text_ ? state_.parser.last_sequence() : state_.binary.last_sequence();
  if (!charged_ && !state_.rates.take(origin_.client, message.arrived_ns))
    return refuse(too_fast(state_.options.max_rate), sequence);
  charged_ = true;
  if (!frame) return refuse(frame.error(), sequence);
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
  if (!is_open_ && !is_lost_)
    if (const auto chosen = choose_model({}); !chosen) return refuse(chosen.error(), sequence);
  return is_stream() ? take_step(frame->step, message.arrived_ns)
                     : take_window(frame->step, message.arrived_ns);
}

Result<void> StreamSocket::choose_model(std::string_view name) {
  // A session that begins now gets the model that is current now.
  if (!name.empty()) model_name_ = name;
  auto found = state_.model(model_name_);
  if (!found) return found.error();
  if (*found == model_) return {};
  if (in_flight_ > 0)
    return Error{ErrorCode::invalid_argument, "frames of the session before are not answered yet",
                 "open.model"};
  model_ = *std::move(found);
  meet_model();
  return {};
}

void StreamSocket::take_open(const OpenFrame& frame) {
  if (is_open_)
    return reply_error(Error{ErrorCode::invalid_argument, "the session is open already", "open"},
                       {});
  if (const auto chosen = choose_model(frame.model); !chosen)
    return reply_error(chosen.error(), {});
  if (is_stream())
    if (const auto opened = open_session(frame.options); !opened)
      return reply_error(opened.error(), {});
  is_open_ = true;
  deadline_ms_ = frame.deadline_ms;
  best_effort_ = frame.best_effort;
  const OpenedReply reply{.model = model(),
                          .name = model_->name,
                          .session = session_,
                          .next_step = next_,
                          .units = units_,
                          .max_queued_steps = capacity_,
                          .step_rate_hz = step_rate_hz_};
  std::string& out = begin_reply();
  is_text_ ? json_frames::opened(out, reply) : binary_frames::opened(out, reply);
  end_reply();
}

Result<void> StreamSocket::open_session(SessionOptions options) {
  options.tenant = origin_.caller.id;
  auto info = model_->engine->open_session(options);
  if (!info) return explain_refusal(info.error());
  session_ = info->id;
  next_ = info->next_step;
  decoded_ = next_ - 1;
  step_rate_hz_ = info->step_rate_hz;
  units_ = options.unit_ids.empty() ? model().unit_ids.size() : options.unit_ids.size();
  drop_out_of_step_ = options.drop_out_of_step;
  is_open_ = true;
  is_lost_ = false;
  own_ = {};
  log_session("session opened");
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

RequestTerms StreamSocket::terms_of(const StepFrame& frame, TimeNs arrived_ns) const {
  // Whoever names a deadline wants no answer after it. Without one the step itself is the deadline
  // and a late answer says so.
  std::optional<double> named = frame.deadline_ms ? frame.deadline_ms : deadline_ms_;
  if (!named && state_.options.deadline_ms > 0) named = state_.options.deadline_ms;
  const std::optional<bool> asked = frame.best_effort ? frame.best_effort : best_effort_;
  RequestTerms terms{.arrived_ns = arrived_ns,
                     .best_effort = asked.value_or(is_stream() && !named)};
  if (named || is_stream())
    terms.deadline_ns = deadline_at(arrived_ns, named.value_or(model().step_ms));
  return terms;
}

StreamSocket::Slot& StreamSocket::prepare_slot(const StepFrame& frame, const RequestTerms& terms) {
  Slot& slot = next_slot();
  slot.done = false;
  slot.is_text = is_text_;
  slot.sequence = frame.sequence;
  slot.terms = terms;
  slot.trace = state_.tracer.begin(origin_.route, origin_.trace, terms.arrived_ns);
  if (slot.trace) {
    RequestRecord& record = slot.trace->record;
    record.model = model_->name;
    record.request_id = origin_.request_id;
    record.tenant = origin_.caller.tenant;
    record.sequence = frame.sequence;
  }
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
  Slot& slot = prepare_slot(frame, terms_of(frame, arrived_ns));
  const auto submit = model_->engine->submit(StepRequest{.session = session_,
                                                         .sequence = frame.sequence,
                                                         .gap = frame.gap,
                                                         .events = frame.events,
                                                         .deadline_ns = slot.terms.deadline_ns,
                                                         .best_effort = slot.terms.best_effort},
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
  Slot& slot = prepare_slot(frame, terms_of(frame, arrived_ns));
  const auto submit = model_->engine->submit(WindowRequest{.events = frame.events,
                                                           .deadline_ns = slot.terms.deadline_ns,
                                                           .best_effort = slot.terms.best_effort,
                                                           .tenant = origin_.caller.id},
                                             slot);
  if (!submit) return submit_failed(submit.error(), frame.sequence);
  is_open_ = true;
  submitted();
  return true;
}

void StreamSocket::submitted() {
  retrying_ = false;
  state_.expect_answer();
  ++count_;
  if (in_flight_++ == 0) keep_alive_ = shared_from_this();
}

bool StreamSocket::submit_failed(const Error& error, std::int64_t sequence) {
  next_slot().trace.reset();
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
  if (is_behind_ && slot.answer.error) slot.answer.error = fell_behind();
  if (!slot.answer.error) decoded_ = slot.sequence;
  if (--in_flight_ == 0) keep_alive_.reset();
  record(slot);
  if (peer_ == nullptr) {
    slot.trace.reset();
    return;
  }
  // An output that is not finite costs its step alone; anything else is the end of the session.
  if (slot.answer.error && is_stream() && slot.answer.error->code != ErrorCode::internal) {
    is_open_ = false;
    is_lost_ = true;
  }
  write_answer(slot);
  slot.done = true;
  flush();
}

void StreamSocket::check(TimeNs now) {
  const double limit_s = state_.options.max_behind_s;
  if (!is_stream() || !is_open_ || closing_ || count_ == 0 || limit_s <= 0) return;
  const Slot& oldest = slots_[head_];
  if (static_cast<double>(now - oldest.terms.arrived_ns) <= limit_s * 1e9) return;
  is_behind_ = true;
  close_session();  // its waiting steps come back with an error
  is_lost_ = true;
}

Error StreamSocket::fell_behind() {
  if (behind_message_.empty())
    behind_message_ = fmt::format(
        "the session fell behind by more than {} s (--max-behind-s): the last step decoded is {}, "
        "{} after it were not",
        state_.options.max_behind_s, decoded_, in_flight_);
  return {ErrorCode::unavailable, behind_message_, "sequence_number"};
}

void StreamSocket::record(Slot& slot) {
  KeptAnswer& answer = slot.answer;
  const StepStatus before = answer.status;
  hand_over(state_, *model_, origin_.route, answer, slot.terms, slot.trace);
  if (is_stream()) {
    if (answer.status != before) ++(answer.status == StepStatus::late ? own_.late : own_.refused);
    return;
  }
  if (answer.error) {
    ++own_.refused;
    return;
  }
  ++own_.steps;
  if (answer.status == StepStatus::late) ++own_.late;
  window_latency_.record(answer.finished_ns - answer.submitted_ns);
}

void StreamSocket::write_answer(Slot& slot) {
  const KeptAnswer& answer = slot.answer;
  if (answer.error) {
    const ApiError error(*answer.error);
    slot.is_text ? json_frames::error(slot.payload, error, slot.sequence)
                 : binary_frames::error(slot.payload, error, slot.sequence);
    return;
  }
  StepReply reply{.sequence = slot.sequence,
                  .status = answer.status,
                  .behavior = answer.behavior,
                  .latency_ns = answer.latency_ns,
                  .queue_wait_ns = answer.started_ns - answer.submitted_ns,
                  .inference_ns = answer.finished_ns - answer.started_ns,
                  .dropped_events = {}};
  if (drop_out_of_step_) reply.dropped_events = answer.dropped_events;
  slot.is_text ? json_frames::answer(slot.payload, reply)
               : binary_frames::answer(slot.payload, reply);
}

std::string& StreamSocket::begin_reply() { return count_ == 0 ? spare_ : next_slot().payload; }

void StreamSocket::end_reply() {
  if (count_ == 0) {
    if (peer_ != nullptr) peer_->send(spare_, is_text_);
    return;
  }
  Slot& slot = next_slot();
  slot.is_text = is_text_;
  slot.done = true;
  ++count_;
}

void StreamSocket::reply_error(const ApiError& error, std::optional<std::int64_t> sequence) {
  state_.metrics.failed(origin_.route, error.status, error.code);
  std::string& out = begin_reply();
  is_text_ ? json_frames::error(out, error, sequence) : binary_frames::error(out, error, sequence);
  end_reply();
}

void StreamSocket::flush() {
  while (count_ > 0 && slots_[head_].done) {
    Slot& slot = slots_[head_];
    head_ = (head_ + 1) % capacity_;
    --count_;
    peer_->send(slot.payload, slot.is_text, std::move(slot.trace));
    if (peer_ == nullptr) return;
  }
  if (count_ == 0 && is_behind_)
    return peer_->close(kTryAgainLater, "the session fell behind (--max-behind-s)");
  if (count_ == 0 && closing_) return finish_close();
  if (count_ == 0 && state_.draining) return on_drain();
  peer_->resume();
}

SessionSummary StreamSocket::close_session() {
  SessionSummary summary;
  if (is_stream()) {
    if (is_open_ && model_->engine != nullptr)
      if (auto closed = model_->engine->close_session(session_)) summary = *closed;
    summary.late += own_.late;
    summary.refused += own_.refused;
  } else {
    summary = own_;
    summary.p50_us = static_cast<double>(window_latency_.quantile_ns(0.5)) * 1e-3;
    summary.p99_us = static_cast<double>(window_latency_.quantile_ns(0.99)) * 1e-3;
    summary.p999_us = static_cast<double>(window_latency_.quantile_ns(0.999)) * 1e-3;
    summary.max_us = static_cast<double>(window_latency_.max_ns()) * 1e-3;
  }
  if (is_open_ && is_stream()) log_session("session closed");
  is_open_ = false;
  return summary;
}

void StreamSocket::finish_close() {
  const SessionSummary summary = close_session();
  is_lost_ = true;
  is_text_ ? json_frames::closed(spare_, summary) : binary_frames::closed(spare_, summary);
  peer_->send(spare_, is_text_);
  if (peer_ != nullptr) peer_->close(kNormalClosure, "closed");
}

void StreamSocket::on_drain() {
  if (count_ == 0 && !closing_ && peer_ != nullptr)
    peer_->close(kGoingAway, "the server is shutting down");
}

void StreamSocket::on_closed() {
  peer_ = nullptr;
  // Takes the queued steps with it; their slots come back with an error.
  if (is_stream()) {
    close_session();
  } else if (model_->engine != nullptr) {
    for (int i = 0; i < count_; ++i) {
      Slot& slot = slots_[(head_ + i) % capacity_];
      if (slot.done || model_->engine->cancel(slot) == 0) continue;
      if (--in_flight_ == 0) keep_alive_.reset();
    }
  }
  is_open_ = false;
}

void StreamSocket::log_session(std::string_view what) const {
  if (!state_.options.log_requests) return;
  access_log::session(what, {.route = origin_.route,
                             .model = model_->name,
                             .tenant = origin_.caller.tenant,
                             .client = origin_.client,
                             .request_id = origin_.request_id,
                             .session = session_});
}

}  // namespace cortex
