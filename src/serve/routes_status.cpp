#include "core/json_writer.h"
#include "serve/metrics_page.h"
#include "serve/query.h"
#include "serve/router.h"

namespace cortex {
namespace {

void write_model_name(JsonWriter& w, const ModelInfo& model) {
  w.begin_object();
  w.key("kind").value(model.kind).key("preset").value(model.preset);
  w.key("precision").value(model.precision).key("digest").value(model.digest);
  w.end_object();
}

std::string status_json(const ServeState& state, const char* status) {
  const auto* entry = state.models.entry({});
  const ModelRef model = entry == nullptr ? nullptr : entry->current;
  JsonWriter w;
  w.begin_object().key("status").value(status);
  w.key("model_loaded").value(model != nullptr);
  w.key("queue_depth").value(model ? model->engine->stats().queue_depth : std::int64_t{0});
  w.key("model");
  if (model)
    write_model_name(w, model->engine->model());
  else
    w.null();
  w.end_object();
  return w.text();
}

}  // namespace

HttpResponse get_health(const ServeState& state, const HttpRequest&) {
  const bool loading = !state.models.is_ready();
  return {.body = status_json(state, state.draining ? "draining" : loading ? "loading" : "ok")};
}

HttpResponse get_ready(const ServeState& state, const HttpRequest&) {
  if (const auto error = state.not_ready()) return error_response(*error);
  return {.body = status_json(state, "ready")};
}

HttpResponse get_metrics(const ServeState& state, const HttpRequest&) {
  return {.content_type = "text/plain; version=0.0.4; charset=utf-8", .body = metrics_page(state)};
}

HttpResponse get_model(const ServeState& state, const HttpRequest& request) {
  const auto model = state.models.find(query_value(request.query, "model"));
  if (!model) return error_response(ApiError(model.error()));
  const ModelInfo& m = (*model)->engine->model();
  JsonWriter w;
  w.begin_object();
  w.key("name").value((*model)->name);
  w.key("kind").value(m.kind).key("preset").value(m.preset).key("precision").value(m.precision);
  w.key("digest").value(m.digest).key("parameters").value(m.parameters);
  w.key("outputs").begin_array();
  for (const OutputInfo& output : m.outputs) {
    w.begin_object().key("name").value(output.name).key("unit").value(output.unit).end_object();
  }
  w.end_array();
  w.key("bin_ms").value(m.bin_ms).key("max_events").value(m.max_events);
  if (m.kind == "stream") {
    w.key("step_ms").value(m.step_ms).key("bins_per_step").value(m.bins_per_step);
    w.key("window_steps").value(m.window_steps).key("context_steps").value(m.context_steps);
    w.key("target_offset_ms").value(m.target_offset_ms);
    w.key("units").begin_array();
    for (const std::string& unit : m.unit_ids) w.value(unit);
    w.end_array();
  } else {
    w.key("max_bins").value(m.max_bins).key("max_neurons").value(m.max_neurons);
  }
  if (!m.training_json.empty()) w.key("training").raw(m.training_json);
  w.end_object();
  return {.body = w.text()};
}

HttpResponse get_index(const ServeState&, const HttpRequest&) {
  return {.content_type = "text/plain; charset=utf-8",
          .body =
              "Cortex-Engine decodes neural spikes.\n"
              "\n"
              "POST /decode     one window of events, one answer\n"
              "WS   /stream     one frame a step, one answer a step\n"
              "WS   /v1/stream  the same, also in binary frames\n"
              "GET  /v1/model   what is served: outputs, units, step\n"
              "GET  /health     200 while the process lives\n"
              "GET  /ready      200 while requests are taken, else 503\n"
              "GET  /metrics    Prometheus text\n"
              "     /v2/...     Open Inference Protocol\n"
              "GET  /docs       all routes, with what they take and answer\n"
              "GET  /openapi.json  the same, for programs\n"
              "\n"
              "Requests and answers are JSON; docs/protocol.md describes them.\n"};
}

}  // namespace cortex
