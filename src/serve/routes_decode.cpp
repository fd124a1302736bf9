#include <algorithm>
#include <cctype>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "core/json_writer.h"
#include "serve/event_rules.h"
#include "serve/pending_window.h"
#include "serve/query.h"
#include "serve/router.h"

namespace cortex {
namespace {

constexpr std::string_view kEndpoint = "/decode";

/// "application/json" with or without parameters, "application/x+json", or nothing at all.
bool is_json(std::string_view content_type) {
  std::string type;
  for (const char c : content_type.substr(0, content_type.find(';')))
    if (c != ' ') type += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return type.empty() || type == "application/json" ||
         (type.starts_with("application/") && type.ends_with("+json"));
}

HttpResponse decode_response(std::string_view request_id, const KeptAnswer& answer) {
  JsonWriter w;
  w.begin_object().key("request_id").value(request_id).key("behavior").begin_array();
  for (const float v : answer.behavior) w.value(v);
  w.end_array();
  w.key("latency_ms").value(to_ms(answer.latency_ns));
  w.key("queue_wait_ms").value(to_ms(answer.started_ns - answer.submitted_ns));
  w.key("inference_ms").value(to_ms(answer.finished_ns - answer.started_ns));
  w.end_object();
  return {.body = w.text()};
}

/// A request for the model, of as many events as usual.
std::string example_body(const ModelInfo& model) {
  constexpr int kEvents = 256;
  const bool stream = model.kind == "stream";
  const auto units = static_cast<int>(unit_count(model));
  const int most = stream || model.max_events <= 0 ? kEvents : model.max_events;
  JsonWriter w;
  w.begin_object().key("request_id").value("").key("session_id").value("");
  w.key("events").begin_array();
  for (int i = 0; i < std::min(kEvents, most) && units > 0; ++i)
    w.begin_object()
        .key("neuron_id")
        .value(i % units)
        .key("time_bin")
        .value(model.max_bins > 0 ? i % model.max_bins : i)
        .key("value")
        .value(1)
        .end_object();
  w.end_array().end_object();
  return w.text();
}

}  // namespace

Result<void> rehearse_decode(ServeState& state, const ModelInfo& model) {
  constexpr int kTimes = 3;
  const std::string body = example_body(model);
  for (int i = 0; i < kTimes; ++i) {
    const auto frame = state.parser.decode(body);
    if (!frame) return frame.error();
    if (auto checked = check_window(frame->events, model); !checked) return checked;
    const KeptAnswer answer{
        .behavior = std::vector<float>(model.outputs.size()), .batch = {}, .error = {}};
    (void)decode_response(frame->request_id, answer);
  }
  return {};
}

Withdraw post_decode(ServeState& state, const HttpRequest& request, Reply reply, TracePtr trace) {
  const auto fail = [&](const ApiError& error) {
    HttpResponse response = failed(state, kEndpoint, error);
    if (trace) trace->record.status = error.status;
    response.trace = std::move(trace);
    reply(std::move(response));
    return Withdraw();
  };
  if (!is_json(request.content_type))
    return fail(ApiError(415, "unsupported_media_type",
                         "the body must be application/json, not " + request.content_type,
                         "Content-Type"));
  const auto frame = state.parser.decode(request.body);
  if (!frame) return fail(frame.error());
  const auto model =
      state.model(frame->model.empty() ? query_value(request.query, "model") : frame->model);
  if (!model) return fail(model.error());
  const auto checked = check_window(frame->events, (*model)->engine->model());
  if (!checked) return fail(checked.error());

  WindowRequest window{.events = frame->events,
                       .best_effort = frame->best_effort.value_or(false),
                       .tenant = request.caller.id};
  const double ms = frame->deadline_ms.value_or(state.options.deadline_ms);
  if (ms > 0) window.deadline_ns = deadline_at(request.arrived_ns, ms);
  if (trace) trace->record.model = (*model)->name;
  return submit_window(state, *model, kEndpoint, window, request.arrived_ns, std::move(trace),
                       [request_id = frame->request_id, reply = std::move(reply)](
                           const KeptAnswer& answer, TracePtr done) {
                         HttpResponse response = answer.error
                                                     ? error_response(ApiError(*answer.error))
                                                     : decode_response(request_id, answer);
                         response.trace = std::move(done);
                         reply(std::move(response));
                       });
}

}  // namespace cortex
