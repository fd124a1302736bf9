#include <algorithm>
#include <cctype>
#include <string>
#include <string_view>

#include "core/json_writer.h"
#include "serve/router.h"

namespace cortex {
namespace {

struct Operation {
  std::string_view path;
  std::string_view method;
  std::string_view summary;
  std::string_view takes;    ///< schema of the request's body; empty: none
  std::string_view answers;  ///< schema of a JSON answer; empty: `type`
  std::string_view type = "application/json";
};

constexpr std::string_view kWebSocket = "websocket";

/// In the order of docs/protocol.md.
constexpr Operation kOperations[] = {
    {"/decode", "POST", "One window of events, one behaviour vector", "DecodeRequest",
     "DecodeAnswer"},
    {"/stream", "GET",
     "WebSocket: a StepFrame a message, each answered by a StepAnswer; a session on a stream model",
     "", "", kWebSocket},
    {"/v1/stream", "GET", "WebSocket: the same, also in binary frames", "", "", kWebSocket},
    {"/v1/model", "GET", "What is served: outputs and their units, step, bins, unit ids", "",
     "Model"},
    {"/health", "GET", "200 while the process lives", "", "Status"},
    {"/ready", "GET", "200 while requests are taken, else 503", "", "Status"},
    {"/metrics", "GET", "Prometheus text", "", "", "text/plain"},
    {"/", "GET", "The routes in short", "", "", "text/plain"},
    {"/docs", "GET", "The routes as a page", "", "", "text/html"},
    {"/openapi.json", "GET", "The routes as an OpenAPI document", "", "Anything"},
    {"/v2", "GET", "Open Inference Protocol: name, version, extensions", "", "Anything"},
    {"/v2/health/live", "GET", "200 while the process lives", "", "Anything"},
    {"/v2/health/ready", "GET", "200 while requests are taken, else 503", "", "Anything"},
    {"/v2/models/{model}", "GET", "Inputs and outputs of a model", "", "Anything"},
    {"/v2/models/{model}/ready", "GET", "200 where the model is served", "", "Anything"},
    {"/v2/models/{model}/infer", "POST", "One window, or one step of a sequence", "InferRequest",
     "InferAnswer"},
    {"/v2/models/{model}/versions/{version}", "GET", "Inputs and outputs of a model", "",
     "Anything"},
    {"/v2/models/{model}/versions/{version}/ready", "GET", "200 where that version is served", "",
     "Anything"},
    {"/v2/models/{model}/versions/{version}/infer", "POST", "One window, or one step of a sequence",
     "InferRequest", "InferAnswer"},
    {"/v2/repository/index", "POST", "Models, their states, and why the last load failed", "",
     "Anything"},
    {"/v2/repository/models/{model}/load", "POST",
     "Loads a model, or its file again; needs the key of an administrator", "", "Anything"},
    {"/v2/repository/models/{model}/unload", "POST",
     "Takes a model out of service; needs the key of an administrator", "", "Anything"},
};

constexpr std::string_view kSchemas = R"json({
"Anything":{"type":"object"},
"Event":{"type":"object","required":["neuron_id","time_bin","value"],"properties":{
 "neuron_id":{"type":"integer","minimum":0,"description":"index into the model's or session's units"},
 "time_bin":{"type":"integer","minimum":0,"description":"from the window's or session's start"},
 "value":{"type":"integer","minimum":1,"description":"spikes in the bin"}}},
"DecodeRequest":{"type":"object","required":["request_id","session_id","events"],"properties":{
 "request_id":{"type":"string"},"session_id":{"type":"string"},"model":{"type":"string"},
 "events":{"type":"array","items":{"$ref":"#/components/schemas/Event"}},
 "deadline_ms":{"type":"number","description":"from the request's arrival; past it the answer is 504"},
 "best_effort":{"type":"boolean","description":"a late answer is wanted all the same"}}},
"DecodeAnswer":{"type":"object","properties":{
 "request_id":{"type":"string"},
 "behavior":{"type":"array","items":{"type":"number"},"description":"in the units of GET /v1/model"},
 "latency_ms":{"type":"number"},"queue_wait_ms":{"type":"number"},
 "inference_ms":{"type":"number"}}},
"StepFrame":{"type":"object","required":["sequence_number","events"],"properties":{
 "sequence_number":{"type":"integer","minimum":0},
 "events":{"type":"array","items":{"$ref":"#/components/schemas/Event"}},
 "gap":{"type":"integer","minimum":0,"description":"silent steps before this one"},
 "deadline_ms":{"type":"number"},"best_effort":{"type":"boolean"}}},
"StepAnswer":{"type":"object","properties":{
 "sequence_number":{"type":"integer"},
 "behavior":{"type":"array","nullable":true,"items":{"type":"number"}},
 "status":{"type":"string","enum":["fresh","late","refused"]},
 "latency_ms":{"type":"number"},"queue_wait_ms":{"type":"number"},
 "inference_ms":{"type":"number"}}},
"Model":{"type":"object","properties":{
 "name":{"type":"string"},"kind":{"type":"string","enum":["stream","window"]},
 "preset":{"type":"string"},"precision":{"type":"string"},"digest":{"type":"string"},
 "parameters":{"type":"integer"},"bin_ms":{"type":"number"},"step_ms":{"type":"number"},
 "outputs":{"type":"array","items":{"type":"object","properties":{
  "name":{"type":"string"},"unit":{"type":"string"}}}},
 "units":{"type":"array","items":{"type":"string"}}}},
"Status":{"type":"object","properties":{
 "status":{"type":"string"},"model_loaded":{"type":"boolean"},"queue_depth":{"type":"integer"}}},
"Tensor":{"type":"object","required":["name","datatype","shape"],"properties":{
 "name":{"type":"string"},"datatype":{"type":"string"},
 "shape":{"type":"array","items":{"type":"integer"}},"data":{"type":"array","items":{}},
 "parameters":{"type":"object"}}},
"InferRequest":{"type":"object","required":["inputs"],"properties":{
 "id":{"type":"string"},
 "inputs":{"type":"array","items":{"$ref":"#/components/schemas/Tensor"}},
 "parameters":{"type":"object","description":"sequence_id, sequence_start, sequence_end, ..."}}},
"InferAnswer":{"type":"object","properties":{
 "model_name":{"type":"string"},"model_version":{"type":"string"},"id":{"type":"string"},
 "parameters":{"type":"object"},
 "outputs":{"type":"array","items":{"$ref":"#/components/schemas/Tensor"}}}},
"Error":{"type":"object","properties":{"error":{"type":"object","properties":{
 "code":{"type":"string"},"message":{"type":"string"},"field":{"type":"string"}}}}},
"InferError":{"type":"object","properties":{"error":{"type":"string"}}}})json";

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return out;
}

void write_content(JsonWriter& w, std::string_view type, std::string_view schema) {
  w.key("content").begin_object().key(type).begin_object().key("schema").begin_object();
  if (schema.empty())
    w.key("type").value("string");
  else
    w.key("$ref").value("#/components/schemas/" + std::string(schema));
  w.end_object().end_object().end_object();
}

void write_parameters(JsonWriter& w, std::string_view path) {
  w.key("parameters").begin_array();
  for (const std::string_view name : {"model", "version"}) {
    if (path.find("{" + std::string(name) + "}") == std::string_view::npos) continue;
    w.begin_object().key("name").value(name).key("in").value("path").key("required").value(true);
    w.key("schema").begin_object().key("type").value("string").end_object().end_object();
  }
  w.end_array();
}

void write_operation(JsonWriter& w, const Operation& o) {
  w.key(lower(o.method)).begin_object().key("summary").value(o.summary);
  write_parameters(w, o.path);
  if (!o.takes.empty()) {
    w.key("requestBody").begin_object().key("required").value(true);
    write_content(w, "application/json", o.takes);
    w.end_object();
  }
  w.key("responses").begin_object();
  const bool is_socket = o.type == kWebSocket;
  w.key(is_socket ? "101" : "200").begin_object();
  w.key("description").value(is_socket ? "the WebSocket is open" : "the answer");
  if (!is_socket) write_content(w, o.type, o.answers);
  w.end_object();
  w.key("default").begin_object().key("description").value("an error");
  write_content(w, "application/json", o.path.starts_with("/v2") ? "InferError" : "Error");
  w.end_object().end_object().end_object();
}

std::string html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

}  // namespace

HttpResponse get_openapi(const ServeState& /*state*/, const HttpRequest& /*request*/) {
  JsonWriter w;
  w.begin_object().key("openapi").value("3.0.3");
  w.key("info").begin_object().key("title").value("Cortex-Engine");
  w.key("version").value(CORTEX_VERSION).end_object();
  w.key("paths").begin_object();
  for (const Operation& operation : kOperations) {
    w.key(operation.path).begin_object();
    write_operation(w, operation);
    w.end_object();
  }
  w.end_object().key("components").begin_object().key("schemas").raw(kSchemas);
  w.key("securitySchemes").begin_object().key("key").begin_object();
  w.key("type").value("http").key("scheme").value("bearer").end_object().end_object();
  // Either without a key, where the server asks for none, or with one.
  w.end_object().key("security").begin_array().begin_object().end_object();
  w.begin_object().key("key").begin_array().end_array().end_object().end_array();
  w.end_object();
  return {.body = w.text()};
}

HttpResponse get_docs(const ServeState& /*state*/, const HttpRequest& /*request*/) {
  std::string page =
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
      "<title>Cortex-Engine</title></head><body>\n<h1>Cortex-Engine</h1>\n"
      "<p>Neural events in, behaviour out. For programs: <a "
      "href=\"/openapi.json\">openapi.json</a>; frames, errors and limits: docs/protocol.md.</p>\n"
      "<table>\n<tr><th>method<th>route<th>what it does<th>takes<th>answers</tr>\n";
  for (const Operation& o : kOperations) {
    page += "<tr><td>" + html(o.method) + "<td><code>" + html(o.path) + "</code><td>" +
            html(o.summary) + "<td>" + html(o.takes) + "<td>" +
            html(o.answers.empty() || o.answers == "Anything" ? o.type : o.answers) + "</tr>\n";
  }
  page += "</table>\n<h2>What they hold</h2>\n<pre>" + html(kSchemas) + "</pre>\n</body></html>\n";
  return {.content_type = "text/html; charset=utf-8", .body = std::move(page)};
}

}  // namespace cortex
