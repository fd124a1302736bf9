#include "serve/router.h"

#include <array>
#include <string_view>
#include <utility>

#include "serve/access_log.h"
#include "serve/origin.h"

namespace cortex {
namespace {

using Page = HttpResponse (*)(const ServeState&, const HttpRequest&);

struct Route {
  std::string_view path;
  std::string_view method;
  bool open;  // answers without an API key, so that a load balancer can probe
  Page page;  // null: not a page
};

constexpr Route kRoutes[] = {
    {"/", "GET", false, get_index},         {"/health", "GET", true, get_health},
    {"/ready", "GET", true, get_ready},     {"/metrics", "GET", false, get_metrics},
    {"/v1/model", "GET", false, get_model}, {"/decode", "POST", false, nullptr},
    {"/stream", "GET", false, nullptr},     {"/v1/stream", "GET", false, nullptr},
    {"/docs", "GET", false, get_docs},      {"/openapi.json", "GET", false, get_openapi},
};

/// One label for all unknown paths: a client must not be able to grow the table.
constexpr std::string_view kNoEndpoint = "none";
/// As much of an unknown path as comes back in the error.
constexpr std::size_t kLongestPath = 200;

const Route* find_route(std::string_view path) {
  // The published service mounts its metrics as an application of its own, under both spellings.
  if (path == "/metrics/") path = "/metrics";
  for (const Route& route : kRoutes)
    if (route.path == path) return &route;
  return nullptr;
}

bool is_v2(std::string_view path) { return path == "/v2" || path.starts_with("/v2/"); }

bool takes(std::string_view method, std::string_view given) {
  return given == method || (method == "GET" && given == "HEAD");
}

ApiError wrong_method(const HttpRequest& request, std::string_view right) {
  return ApiError(405, "method_not_allowed",
                  request.path.substr(0, kLongestPath) + " takes " + std::string(right) + ", not " +
                      request.method.substr(0, kLongestPath),
                  "method");
}

ApiError no_such_route(const HttpRequest& request) {
  return ApiError(404, "not_found", "no such route: " + request.path.substr(0, kLongestPath),
                  "path");
}

}  // namespace

std::vector<RouteName> all_routes() {
  std::vector<RouteName> names;
  for (const Route& route : kRoutes) names.push_back({route.path, route.method});
  append_v2_routes(names);
  return names;
}

HttpResponse failed(ServeState& state, std::string_view endpoint, const ApiError& error) {
  state.metrics.failed(endpoint, error.status, error.code);
  return error_response(error);
}

HttpResponse Router::refuse(const ApiError& error) { return failed(state_, kNoEndpoint, error); }

HttpResponse Router::fail(const HttpRequest& request, std::string_view endpoint,
                          const ApiError& error) {
  state_.metrics.failed(endpoint, error.status, error.code);
  return is_v2(request.path) ? v2_error(error) : error_response(error);
}

std::optional<ApiError> Router::admit(HttpRequest& request, bool needs_key) const {
  if (!state_.keys) {
    if (!needs_key || from_trusted_page(request.origin, request.host, state_.options.allow_origins))
      return std::nullopt;
    return ApiError(403, "forbidden",
                    request.origin.empty()
                        ? "a server without API keys does not answer to the name " + request.host +
                              ", which a web page may own (--allow-origin)"
                        : "a server without API keys does not talk to the web page of " +
                              request.origin + " (--allow-origin)",
                    request.origin.empty() ? "Host" : "Origin");
  }
  if (auto caller = state_.keys->keys().find(request.authorization)) {
    request.caller = *std::move(caller);
    return std::nullopt;
  }
  if (!needs_key) return std::nullopt;
  return ApiError(401, "unauthorized",
                  request.authorization.empty()
                      ? "an API key is needed: send Authorization: Bearer KEY"
                      : "the API key is not one of the server's",
                  "Authorization");
}

Withdraw Router::handle(HttpRequest request, Reply reply) {
  const Route* route = find_route(request.path);
  const auto v2 = route == nullptr ? find_v2_route(request.path) : std::nullopt;
  const std::string_view endpoint = route ? route->path : v2 ? v2->endpoint : kNoEndpoint;
  const bool open = route ? route->open : v2 && v2->open;
  access_log::name_request(request);
  const auto forbidden = admit(request, !open);
  reply = access_log::follow(state_, request, endpoint, std::move(reply));
  const auto refuse = [&](const ApiError& error) {
    reply(fail(request, endpoint, error));
    return Withdraw();
  };
  if (forbidden) return refuse(*forbidden);
  if (!open && !state_.rates.take(client_of(request), request.arrived_ns))
    return refuse(too_fast(state_.options.max_rate));
  if (!route && !v2) return refuse(no_such_route(request));
  const std::string_view method = route ? route->method : v2->method;
  if (!takes(method, request.method)) {
    HttpResponse response = fail(request, endpoint, wrong_method(request, method));
    response.headers.emplace_back("Allow", std::string(method));
    reply(std::move(response));
    return {};
  }
  if (route && route->page != nullptr) {
    HttpResponse response = route->page(state_, request);
    state_.metrics.count(endpoint, response.status);
    reply(std::move(response));
    return {};
  }
  TracePtr trace =
      state_.tracer.begin(endpoint, parse_traceparent(request.traceparent), request.arrived_ns);
  if (trace) {
    trace->record.request_id = request.request_id;
    trace->record.tenant = request.caller.tenant;
  }
  if (v2) return answer_v2(state_, *v2, request, std::move(reply), std::move(trace));
  if (route->path == "/decode")
    return post_decode(state_, request, std::move(reply), std::move(trace));
  HttpResponse response =
      fail(request, endpoint,
           ApiError(426, "upgrade_required", request.path + " is a WebSocket: connect with ws://",
                    "Upgrade"));
  response.headers.emplace_back("Upgrade", "websocket");
  reply(std::move(response));
  return {};
}

std::variant<std::shared_ptr<SocketHandler>, HttpResponse> Router::upgrade(HttpRequest request) {
  const bool plain = request.path == "/stream";
  const std::string_view route = plain || request.path != "/v1/stream" ? "/stream" : "/v1/stream";
  access_log::name_request(request);
  if (const auto error = admit(request, true)) return failed(state_, route, *error);
  if (!state_.rates.take(client_of(request), request.arrived_ns))
    return failed(state_, route, too_fast(state_.options.max_rate));
  if (!plain && request.path != "/v1/stream")
    return failed(state_, route,
                  ApiError(404, "not_found",
                           "no WebSocket at " + request.path.substr(0, kLongestPath), "path"));
  auto socket = make_stream_socket(state_, request, route, !plain);
  if (const auto* error = std::get_if<ApiError>(&socket)) return failed(state_, route, *error);
  return std::move(std::get<std::shared_ptr<SocketHandler>>(socket));
}

}  // namespace cortex
