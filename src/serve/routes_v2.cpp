#include <fmt/format.h>

#include <array>
#include <utility>
#include <vector>

#include "core/json_writer.h"
#include "core/log.h"
#include "serve/codec_oip.h"
#include "serve/router.h"

namespace cortex {
namespace {

using Page = V2Route::Page;

std::vector<std::string_view> parts_of(std::string_view path) {
  std::vector<std::string_view> parts;
  while (!path.empty()) {
    path.remove_prefix(1);  // the slash
    const auto end = std::min(path.find('/'), path.size());
    parts.push_back(path.substr(0, end));
    path.remove_prefix(end);
  }
  return parts;
}

/// A route; {model} and {version} stand for one part of a path each.
struct Shape {
  std::string_view path;
  std::string_view endpoint;
  std::string_view method;
  bool open;
  Page page;
};

constexpr Shape kShapes[] = {
    {"/v2", "/v2", "GET", false, Page::server},
    {"/v2/health/live", "/v2/health/live", "GET", true, Page::live},
    {"/v2/health/ready", "/v2/health/ready", "GET", true, Page::ready},
    {"/v2/models/{model}", "/v2/models", "GET", false, Page::model},
    {"/v2/models/{model}/ready", "/v2/models/ready", "GET", false, Page::model_ready},
    {"/v2/models/{model}/infer", "/v2/models/infer", "POST", false, Page::infer},
    {"/v2/models/{model}/versions/{version}", "/v2/models", "GET", false, Page::model},
    {"/v2/models/{model}/versions/{version}/ready", "/v2/models/ready", "GET", false,
     Page::model_ready},
    {"/v2/models/{model}/versions/{version}/infer", "/v2/models/infer", "POST", false, Page::infer},
    {"/v2/repository/index", "/v2/repository/index", "POST", false, Page::index},
    {"/v2/repository/models/{model}/load", "/v2/repository/models/load", "POST", false, Page::load},
    {"/v2/repository/models/{model}/unload", "/v2/repository/models/unload", "POST", false,
     Page::unload},
};

std::optional<V2Route> match(const Shape& shape, const std::vector<std::string_view>& parts) {
  const auto wanted = parts_of(shape.path);
  if (wanted.size() != parts.size()) return std::nullopt;
  V2Route route{
      .endpoint = shape.endpoint, .method = shape.method, .open = shape.open, .page = shape.page};
  for (std::size_t i = 0; i < parts.size(); ++i) {
    if (wanted[i] == "{model}" && !parts[i].empty())
      route.model = parts[i];
    else if (wanted[i] == "{version}" && !parts[i].empty())
      route.version = parts[i];
    else if (wanted[i] != parts[i])
      return std::nullopt;
  }
  return route;
}

HttpResponse flag_page(std::string_view name, bool on, int status) {
  JsonWriter w;
  w.begin_object().key(name).value(on).end_object();
  return {.status = status, .body = w.text()};
}

HttpResponse server_page() {
  JsonWriter w;
  w.begin_object().key("name").value("cortex").key("version").value(CORTEX_VERSION);
  w.key("extensions").begin_array();
  for (const char* extension : {"binary_tensor_data", "sequence", "model_repository"})
    w.value(extension);
  w.end_array().end_object();
  return {.body = w.text()};
}

void write_tensor(JsonWriter& w, std::string_view name, std::string_view datatype,
                  std::int64_t size) {
  w.begin_object().key("name").value(name).key("datatype").value(datatype);
  w.key("shape").begin_array().value(size).end_array().end_object();
}

HttpResponse model_page(const ServedModel& model) {
  const ModelInfo& info = model.engine->model();
  JsonWriter w;
  w.begin_object().key("name").value(model.name);
  w.key("versions").begin_array().value(fmt::format("{}", model.version)).end_array();
  w.key("platform").value("cortex");
  w.key("inputs").begin_array();
  write_tensor(w, "neuron_id", "INT32", -1);
  write_tensor(w, "time_bin", "INT64", -1);
  write_tensor(w, "value", "INT32", -1);
  w.end_array();
  w.key("outputs").begin_array();
  write_tensor(w, "behavior", "FP32", static_cast<std::int64_t>(info.outputs.size()));
  w.end_array();
  w.key("parameters").begin_object();
  w.key("kind").value(info.kind).key("preset").value(info.preset);
  w.key("precision").value(info.precision).key("digest").value(info.digest);
  w.key("sequences").value(info.kind == "stream");
  w.end_object().end_object();
  return {.body = w.text()};
}

HttpResponse index_page(const ServeState& state) {
  JsonWriter w;
  w.begin_array();
  for (const ModelRegistry::Entry& entry : state.models.entries()) {
    w.begin_object().key("name").value(entry.source.name);
    if (entry.current) w.key("version").value(fmt::format("{}", entry.current->version));
    const char* status = entry.current                                    ? "READY"
                         : entry.status == ModelRegistry::Status::loading ? "LOADING"
                                                                          : "UNAVAILABLE";
    w.key("state").value(status).key("reason").value(entry.reason);
    w.end_object();
  }
  w.end_array();
  return {.body = w.text()};
}

std::optional<ApiError> not_an_administrator(const ServeState& state, const HttpRequest& request) {
  if (!state.keys)
    return ApiError(403, "forbidden",
                    "models are loaded and unloaded with an API key alone (--api-key-file)",
                    "Authorization");
  if (!request.caller.is_admin)
    return ApiError(403, "forbidden",
                    fmt::format("the key of '{}' may not load or unload models: its line in the "
                                "key file does not say admin",
                                request.caller.tenant),
                    "Authorization");
  return std::nullopt;
}

void change_models(ServeState& state, const V2Route& route, const HttpRequest& request,
                   Reply reply) {
  const bool is_load = route.page == Page::load;
  auto done = [&state, is_load, endpoint = route.endpoint, name = std::string(route.model),
               tenant = request.caller.tenant,
               reply = std::move(reply)](const Result<ModelRef>& outcome) {
    const int status = outcome ? 200 : ApiError(outcome.error()).status;
    log::write(
        outcome ? log::Level::info : log::Level::error, is_load ? "model load" : "model unload",
        {{"model", name},
         {"tenant", tenant},
         {"error", outcome ? std::string_view() : std::string_view(outcome.error().message)}});
    if (outcome) {
      state.metrics.count(endpoint, status);
      return reply({.body = "{}"});
    }
    const ApiError error(outcome.error());
    state.metrics.failed(endpoint, error.status, error.code);
    reply(v2_error(error));
  };
  const std::string name(route.model);
  is_load ? state.models.load(name, std::move(done)) : state.models.unload(name, std::move(done));
}

}  // namespace

Result<ModelRef> find_v2_model(const ServeState& state, const V2Route& route) {
  auto model = state.model(route.model);
  if (!model || route.version.empty()) return model;
  if (route.version == fmt::format("{}", (*model)->version)) return model;
  return Error{ErrorCode::not_found,
               fmt::format("the model '{}' is served in version {}, not '{}'", (*model)->name,
                           (*model)->version, route.version.substr(0, 32)),
               "version"};
}

HttpResponse v2_error(const ApiError& error) {
  HttpResponse response = error_response(error);
  response.body = oip_error(error.message);
  return response;
}

std::optional<V2Route> find_v2_route(std::string_view path) {
  if (path != "/v2" && !path.starts_with("/v2/")) return std::nullopt;
  const auto parts = parts_of(path);
  for (const Shape& shape : kShapes)
    if (auto route = match(shape, parts)) return route;
  return std::nullopt;
}

void append_v2_routes(std::vector<RouteName>& names) {
  for (const Shape& shape : kShapes) names.push_back({shape.path, shape.method});
}

Withdraw answer_v2(ServeState& state, const V2Route& route, const HttpRequest& request, Reply reply,
                   TracePtr trace) {
  const auto answer = [&](HttpResponse response) {
    state.metrics.count(route.endpoint, response.status);
    if (trace) trace->record.status = response.status;
    response.trace = std::move(trace);
    reply(std::move(response));
    return Withdraw();
  };
  const auto fail = [&](const ApiError& error) {
    state.metrics.failed(route.endpoint, error.status, error.code);
    HttpResponse response = v2_error(error);
    if (trace) trace->record.status = error.status;
    response.trace = std::move(trace);
    reply(std::move(response));
    return Withdraw();
  };
  switch (route.page) {
    case Page::server:
      return answer(server_page());
    case Page::live:
      return answer(flag_page("live", true, 200));
    case Page::ready: {
      const bool ready = !state.draining && state.models.is_ready();
      return answer(flag_page("ready", ready, ready ? 200 : 503));
    }
    case Page::index:
      return answer(index_page(state));
    case Page::load:
    case Page::unload:
      if (const auto error = not_an_administrator(state, request)) return fail(*error);
      if (state.draining)
        return fail(Error{ErrorCode::unavailable, "the server is shutting down", ""});
      change_models(state, route, request, std::move(reply));
      return {};
    case Page::infer:
      return post_infer(state, route, request, std::move(reply), std::move(trace));
    case Page::model:
    case Page::model_ready:
      break;
  }
  const auto model = find_v2_model(state, route);
  if (!model) return fail(model.error());
  return answer(route.page == Page::model ? model_page(**model) : flag_page("ready", true, 200));
}

}  // namespace cortex
