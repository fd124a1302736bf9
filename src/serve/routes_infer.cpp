#include <fmt/format.h>

#include <memory>
#include <string>
#include <utility>

#include "serve/codec_oip.h"
#include "serve/event_rules.h"
#include "serve/pending_window.h"
#include "serve/router.h"

namespace cortex {
namespace {

constexpr std::string_view kEndpoint = "/v2/models/infer";

/// What an answer needs of its request, once that is gone.
struct Asked {
  ModelRef model;
  std::string id;
  bool binary = false;
  RequestTerms terms = {};
  std::string sequence_id = {};
  std::optional<std::int64_t> step = {};
};

HttpResponse infer_response(const Asked& asked, const KeptAnswer& answer) {
  if (answer.error) return v2_error(ApiError(*answer.error));
  if (answer.status == StepStatus::refused)
    return v2_error(ApiError(
        Error{ErrorCode::deadline_exceeded,
              fmt::format("step {} was computed but withheld, since its deadline had passed; the "
                          "sequence goes on with step {}",
                          asked.step.value_or(0), asked.step.value_or(0) + 1),
              "parameters.deadline_ms"}));
  InferBody body = infer_body({.model = asked.model->name,
                               .version = asked.model->version,
                               .id = asked.id,
                               .behavior = answer.behavior,
                               .sequence_id = asked.sequence_id,
                               .sequence_number = asked.step,
                               .status = asked.step ? to_string(answer.status) : "",
                               .latency_ms = to_ms(answer.latency_ns),
                               .queue_wait_ms = to_ms(answer.started_ns - answer.submitted_ns),
                               .inference_ms = to_ms(answer.finished_ns - answer.started_ns)},
                              asked.binary);
  HttpResponse response{.body = std::move(body.bytes)};
  if (body.json_length) {
    response.content_type = "application/octet-stream";
    response.headers.emplace_back("Inference-Header-Content-Length",
                                  fmt::format("{}", *body.json_length));
  }
  return response;
}

Error unknown_sequence(const std::string& id) {
  return {ErrorCode::not_found,
          fmt::format("sequence {} is not known: it was never started, has ended or was idle for "
                      "too long; begin it with sequence_start",
                      id),
          "parameters.sequence_id"};
}

/// A step of a sequence between submit() and its answer; owns itself until then.
class PendingStep final : public StepSink, public Mailbox::Item {
 public:
  PendingStep(ServeState& state, Asked asked, std::string key, SequenceRef sequence, bool is_last,
              TracePtr trace, Reply reply)
      : state_(state),
        asked_(std::move(asked)),
        key_(std::move(key)),
        sequence_(std::move(sequence)),
        is_last_(is_last),
        trace_(std::move(trace)),
        reply_(std::move(reply)) {
    answer_.behavior.reserve(asked_.model->engine->model().outputs.size());
  }

  void on_step(const StepAnswer& answer) noexcept override {
    answer_.keep(answer);
    state_.mailbox.post(*this);
  }

  void deliver() override {
    const std::unique_ptr<PendingStep> self(this);
    --sequence_->in_flight;
    // An output that is not finite costs its step alone.
    const bool lost = answer_.error && answer_.error->code != ErrorCode::internal;
    if (is_last_ || lost) state_.sequences.end(key_, sequence_);
    answer_arrived();
  }

  /// The engine did not take it. `began`: the sequence was opened for it.
  void refused(Error error, bool began) {
    const bool expired = error.code == ErrorCode::not_found;
    if (expired) error = unknown_sequence(asked_.sequence_id);
    if (expired || began) state_.sequences.end(key_, sequence_);
    answer_.error = std::move(error);
    answer_arrived();
  }

 private:
  void answer_arrived() {
    hand_over(state_, *asked_.model, kEndpoint, answer_, asked_.terms, trace_);
    HttpResponse response = infer_response(asked_, answer_);
    response.trace = std::move(trace_);
    reply_(std::move(response));
  }

  ServeState& state_;
  const Asked asked_;
  const std::string key_;
  const SequenceRef sequence_;
  const bool is_last_;
  TracePtr trace_;
  Reply reply_;
  KeptAnswer answer_;
};

/// The sequence that a request names, begun where it asks for that. One that goes on keeps the
/// model that it began with, whatever is served under the name now.
Result<SequenceRef> sequence_of(ServeState& state, const V2Route& route, const std::string& key,
                                const InferRequest& infer, const HttpRequest& request) {
  if (!infer.sequence_start) {
    auto known = state.sequences.find(key);
    if (known && !known->is_ending) return known;
    if (auto model = find_v2_model(state, route); !model) return model.error();
    return unknown_sequence(infer.sequence_id);
  }
  auto model = find_v2_model(state, route);
  if (!model) return model.error();
  if ((*model)->engine->model().kind != "stream")
    return Error{ErrorCode::unsupported,
                 fmt::format("{} is a window model: it keeps no sequences", (*model)->name),
                 "parameters.sequence_id"};
  SessionOptions options = infer.session;
  options.tenant = request.caller.id;
  auto opened = (*model)->engine->open_session(options);
  if (!opened) {
    Error error = explain_refusal(opened.error());
    if (error.field.starts_with("open.")) error.field.replace(0, 4, "parameters");
    return error;
  }
  auto sequence = std::make_shared<Sequence>();
  sequence->model = *std::move(model);
  sequence->session = opened->id;
  sequence->next_step = opened->next_step;
  sequence->drop_out_of_step = options.drop_out_of_step;
  state.sequences.put(key, sequence);
  return sequence;
}

Result<void> check_number(const InferRequest& infer, const Sequence& sequence) {
  const std::int64_t expected = sequence.next_step + infer.gap;
  if (!infer.sequence_number || *infer.sequence_number == expected) return {};
  return Error{ErrorCode::out_of_order,
               fmt::format("sequence_number = {} with gap = {}: expected {}",
                           *infer.sequence_number, infer.gap, expected),
               "parameters.sequence_number"};
}

Withdraw infer_window(ServeState& state, const ModelRef& model, const InferRequest& infer,
                      const HttpRequest& request, Reply reply, TracePtr trace) {
  WindowRequest window{.events = infer.events,
                       .best_effort = infer.best_effort.value_or(false),
                       .tenant = request.caller.id};
  const double ms = infer.deadline_ms.value_or(state.options.deadline_ms);
  if (ms > 0) window.deadline_ns = deadline_at(request.arrived_ns, ms);
  if (trace) trace->record.model = model->name;
  Asked asked{.model = model, .id = infer.id, .binary = infer.binary_output};
  return submit_window(state, model, kEndpoint, window, request.arrived_ns, std::move(trace),
                       [asked = std::move(asked), reply = std::move(reply)](
                           const KeptAnswer& answer, TracePtr done) {
                         HttpResponse response = infer_response(asked, answer);
                         response.trace = std::move(done);
                         reply(std::move(response));
                       });
}

void infer_step(ServeState& state, const SequenceRef& sequence, const std::string& key,
                const InferRequest& infer, const HttpRequest& request, Reply reply,
                TracePtr trace) {
  Sequence& s = *sequence;
  const ModelInfo& info = s.model->engine->model();
  const std::int64_t step = s.next_step + infer.gap;
  std::optional<double> named = infer.deadline_ms;
  if (!named && state.options.deadline_ms > 0) named = state.options.deadline_ms;
  if (trace) {
    trace->record.model = s.model->name;
    trace->record.sequence = step;
  }
  const RequestTerms terms{request.arrived_ns,
                           deadline_at(request.arrived_ns, named.value_or(info.step_ms)),
                           infer.best_effort.value_or(!named.has_value())};
  Asked asked{.model = s.model,
              .id = infer.id,
              .binary = infer.binary_output,
              .terms = terms,
              .sequence_id = infer.sequence_id,
              .step = step};
  auto pending =
      std::make_unique<PendingStep>(state, std::move(asked), key, sequence, infer.sequence_end,
                                    std::move(trace), std::move(reply));
  const auto submitted = s.model->engine->submit(StepRequest{.session = s.session,
                                                             .sequence = step,
                                                             .gap = infer.gap,
                                                             .events = infer.events,
                                                             .deadline_ns = terms.deadline_ns,
                                                             .best_effort = terms.best_effort},
                                                 *pending);
  if (!submitted) return pending->refused(submitted.error(), infer.sequence_start);
  s.next_step = step + 1;
  ++s.in_flight;
  s.is_ending = infer.sequence_end;
  state.expect_answer();
  (void)pending.release();  // deliver() takes it back
}

}  // namespace

Withdraw post_infer(ServeState& state, const V2Route& route, const HttpRequest& request,
                    Reply reply, TracePtr trace) {
  const auto fail = [&](const ApiError& error) {
    state.metrics.failed(kEndpoint, error.status, error.code);
    HttpResponse response = v2_error(error);
    if (trace) trace->record.status = error.status;
    response.trace = std::move(trace);
    reply(std::move(response));
    return Withdraw();
  };
  if (state.draining) return fail(Error{ErrorCode::unavailable, "the server is shutting down", ""});
  const auto infer = state.oip.infer(request.body, request.json_length);
  if (!infer) return fail(infer.error());

  if (infer->sequence_id.empty()) {
    if (infer->sequence_start || infer->sequence_end)
      return fail(Error{ErrorCode::invalid_argument,
                        "sequence_start and sequence_end need a sequence_id",
                        "parameters.sequence_id"});
    const auto model = find_v2_model(state, route);
    if (!model) return fail(model.error());
    const auto checked = check_window(infer->events, (*model)->engine->model());
    if (!checked) return fail(checked.error());
    return infer_window(state, *model, *infer, request, std::move(reply), std::move(trace));
  }

  const std::string key =
      SequenceTable::key(request.caller.tenant, route.model, infer->sequence_id);
  const auto sequence = sequence_of(state, route, key, *infer, request);
  if (!sequence) return fail(sequence.error());
  Sequence& s = **sequence;
  s.used_ns = RealClock::instance().now();
  const ModelInfo& info = s.model->engine->model();
  auto checked = check_number(*infer, s);
  if (checked)
    checked = check_step(infer->events, s.next_step + infer->gap, info.unit_ids.size(),
                         s.drop_out_of_step, info);
  if (!checked) {
    // A sequence that could not begin leaves nothing behind.
    if (infer->sequence_start) state.sequences.end(key, *sequence);
    return fail(checked.error());
  }
  infer_step(state, *sequence, key, *infer, request, std::move(reply), std::move(trace));
  return {};
}

}  // namespace cortex
