#include <cctype>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/json_writer.h"
#include "serve/event_rules.h"
#include "serve/router.h"

namespace cortex {
namespace {

/// A request between submit() and its answer; owns itself until then.
class PendingDecode final : public WindowSink, public Mailbox::Item {
 public:
  PendingDecode(ServeState& state, std::string request_id, TimeNs arrived_ns, Reply reply)
      : state_(state),
        request_id_(std::move(request_id)),
        arrived_ns_(arrived_ns),
        reply_(std::move(reply)) {
    behavior_.reserve(state.engine->model().outputs.size());
  }

  void on_window(const WindowAnswer& answer) noexcept override {
    if (answer.error != nullptr)
      error_ = *answer.error;
    else
      behavior_.assign(answer.behavior.begin(), answer.behavior.end());
    submitted_ns_ = answer.submitted_ns;
    started_ns_ = answer.started_ns;
    finished_ns_ = answer.finished_ns;
    state_.mailbox.post(*this);
  }

  void deliver() override {
    const std::unique_ptr<PendingDecode> self(this);
    if (error_) {
      const ApiError error(*error_);
      ++state_.metrics.errors[error.code];
      state_.metrics.count("/decode", error.status);
      return reply_(error_response(error));
    }
    const TimeNs now = RealClock::instance().now();
    state_.metrics.count("/decode", 200);
    state_.metrics.request_latency.record(now - arrived_ns_);
    state_.metrics.queue_wait.record(started_ns_ - submitted_ns_);
    state_.metrics.inference.record(finished_ns_ - started_ns_);
    JsonWriter w;
    w.begin_object().key("request_id").value(request_id_).key("behavior").begin_array();
    for (const float v : behavior_) w.value(v);
    w.end_array();
    w.key("latency_ms").value(to_ms(now - arrived_ns_));
    w.key("queue_wait_ms").value(to_ms(started_ns_ - submitted_ns_));
    w.key("inference_ms").value(to_ms(finished_ns_ - started_ns_));
    w.end_object();
    reply_({.body = w.text()});
  }

 private:
  ServeState& state_;
  std::string request_id_;
  TimeNs arrived_ns_;
  Reply reply_;
  std::vector<float> behavior_;
  std::optional<Error> error_;
  TimeNs submitted_ns_ = 0;
  TimeNs started_ns_ = 0;
  TimeNs finished_ns_ = 0;
};

/// "application/json" with or without parameters, "application/x+json", or nothing at all.
bool is_json(std::string_view content_type) {
  std::string type;
  for (const char c : content_type.substr(0, content_type.find(';')))
    if (c != ' ') type += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return type.empty() || type == "application/json" ||
         (type.starts_with("application/") && type.ends_with("+json"));
}

}  // namespace

void post_decode(ServeState& state, const HttpRequest& request, const Reply& reply) {
  const auto fail = [&](const ApiError& error) {
    ++state.metrics.errors[error.code];
    state.metrics.count("/decode", error.status);
    reply(error_response(error));
  };
  if (const auto error = not_serving(state)) return fail(*error);
  if (!is_json(request.content_type))
    return fail(ApiError(415, "unsupported_media_type",
                         "the body must be application/json, not " + request.content_type,
                         "Content-Type"));
  const auto frame = state.parser.decode(request.body);
  if (!frame) return fail(frame.error());
  const auto checked = check_window(frame->events, state.engine->model());
  if (!checked) return fail(checked.error());

  WindowRequest window{.events = frame->events, .best_effort = frame->best_effort.value_or(false)};
  const double ms = frame->deadline_ms.value_or(state.options.deadline_ms);
  if (ms > 0) window.deadline_ns = deadline_at(request.arrived_ns, ms);
  auto pending =
      std::make_unique<PendingDecode>(state, frame->request_id, request.arrived_ns, reply);
  const auto submitted = state.engine->submit(window, *pending);
  if (!submitted) return fail(submitted.error());
  pending.release();  // deliver() takes it back
}

}  // namespace cortex
