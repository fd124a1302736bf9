#include "serve/router.h"

#include <string_view>
#include <utility>

#include "serve/auth.h"

namespace cortex {
namespace {

using Page = HttpResponse (*)(const ServeState&);

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
    {"/stream", "GET", false, nullptr},
};

const Route* find_route(std::string_view path) {
  // The published service mounts its metrics as an application of its own, under both spellings.
  if (path == "/metrics/") path = "/metrics";
  for (const Route& route : kRoutes)
    if (route.path == path) return &route;
  return nullptr;
}

}  // namespace

std::optional<ApiError> not_serving(const ServeState& state) {
  if (state.draining)
    return ApiError(Error{ErrorCode::unavailable, "the server is shutting down", ""});
  if (state.engine == nullptr)
    return ApiError(Error{ErrorCode::unavailable, "the model is still loading", ""});
  return std::nullopt;
}

std::optional<ApiError> Router::forbidden(const HttpRequest& request) const {
  const std::string& key = state_.options.api_key;
  if (key.empty() || bearer_matches(request.authorization, key)) return std::nullopt;
  return ApiError(401, "unauthorized",
                  request.authorization.empty()
                      ? "an API key is needed: send Authorization: Bearer KEY"
                      : "the API key is not the right one",
                  "Authorization");
}

HttpResponse Router::refuse(const ApiError& error) {
  ++state_.metrics.errors[error.code];
  state_.metrics.count("none", error.status);
  return error_response(error);
}

void Router::handle(const HttpRequest& request, const Reply& reply) {
  const Route* route = find_route(request.path);
  // One label for all unknown paths: a client must not be able to grow the table.
  const std::string endpoint(route == nullptr ? "none" : route->path);
  const auto fail = [&](const ApiError& error) {
    ++state_.metrics.errors[error.code];
    state_.metrics.count(endpoint, error.status);
    return error_response(error);
  };
  if (route == nullptr || !route->open)
    if (const auto error = forbidden(request)) return reply(fail(*error));
  if (route == nullptr)
    return reply(fail(ApiError(404, "not_found", "no such route: " + request.path, "path")));
  if (request.method != route->method && !(route->method == "GET" && request.method == "HEAD")) {
    HttpResponse response = fail(
        ApiError(405, "method_not_allowed",
                 request.path + " takes " + std::string(route->method) + ", not " + request.method,
                 "method"));
    response.headers.emplace_back("Allow", std::string(route->method));
    return reply(std::move(response));
  }
  if (route->page != nullptr) {
    HttpResponse response = route->page(state_);
    state_.metrics.count(endpoint, response.status);
    return reply(std::move(response));
  }
  if (route->path == "/stream") {
    HttpResponse response = fail(
        ApiError(426, "upgrade_required", "/stream is a WebSocket: connect with ws://", "Upgrade"));
    response.headers.emplace_back("Upgrade", "websocket");
    return reply(std::move(response));
  }
  post_decode(state_, request, reply);
}

std::variant<std::shared_ptr<SocketHandler>, HttpResponse> Router::upgrade(
    const HttpRequest& request) {
  const auto fail = [this](const ApiError& error) {
    ++state_.metrics.errors[error.code];
    state_.metrics.count("/stream", error.status);
    return error_response(error);
  };
  if (const auto error = forbidden(request)) return fail(*error);
  if (request.path != "/stream")
    return fail(ApiError(404, "not_found", "no WebSocket at " + request.path, "path"));
  if (const auto error = not_serving(state_)) return fail(*error);
  return make_stream_socket(state_);
}

}  // namespace cortex
