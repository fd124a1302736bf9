#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "serve/api_error.h"
#include "serve/serve_state.h"
#include "serve/transport.h"

/// From a method and a path to the code that answers.
namespace cortex {

class Router {
 public:
  explicit Router(ServeState& state) : state_(state) {}

  Withdraw handle(HttpRequest request, Reply reply);
  /// A WebSocket upgrade: whoever will talk to it, or the answer that refuses it.
  std::variant<std::shared_ptr<SocketHandler>, HttpResponse> upgrade(HttpRequest request);
  /// An answer to something that never became a request.
  HttpResponse refuse(const ApiError& error);

 private:
  /// Fills in whose request it is; what forbids it.
  std::optional<ApiError> admit(HttpRequest& request, bool needs_key) const;
  /// What a request that reached no route, or not by the right method, is told.
  HttpResponse fail(const HttpRequest& request, std::string_view endpoint, const ApiError& error);

  ServeState& state_;
};

/// A route's path, {model} and {version} standing for a part of it, and its method; a WebSocket's
/// is GET.
struct RouteName {
  std::string_view path;
  std::string_view method;
};
/// Every route there is.
std::vector<RouteName> all_routes();

/// An answer of `endpoint` (of static storage) that says what is wrong, counted.
HttpResponse failed(ServeState& state, std::string_view endpoint, const ApiError& error);

// routes_decode.cpp
Withdraw post_decode(ServeState& state, const HttpRequest& request, Reply reply, TracePtr trace);
/// Reads, checks and answers an example of a request a few times, without the engine and counted
/// nowhere: what the first request would otherwise be the first to touch. An error: the example is
/// none that the model takes.
Result<void> rehearse_decode(ServeState& state, const ModelInfo& model);

// routes_stream.cpp
std::variant<std::shared_ptr<SocketHandler>, ApiError> make_stream_socket(
    ServeState& state, const HttpRequest& request, std::string_view route, bool takes_binary);

// routes_status.cpp
HttpResponse get_health(const ServeState& state, const HttpRequest& request);
HttpResponse get_ready(const ServeState& state, const HttpRequest& request);
HttpResponse get_metrics(const ServeState& state, const HttpRequest& request);
HttpResponse get_model(const ServeState& state, const HttpRequest& request);
HttpResponse get_index(const ServeState& state, const HttpRequest& request);

// api_document.cpp: what the routes are, for programs and for people
HttpResponse get_openapi(const ServeState& state, const HttpRequest& request);
HttpResponse get_docs(const ServeState& state, const HttpRequest& request);

// routes_v2.cpp: the Open Inference Protocol, everything below /v2
struct V2Route {
  std::string_view endpoint;  ///< its label in the metrics, of static storage
  std::string_view method;
  std::string_view model = {};
  std::string_view version = {};
  bool open = false;  ///< answers without an API key
  enum class Page { server, live, ready, model, model_ready, infer, index, load, unload } page;
};
std::optional<V2Route> find_v2_route(std::string_view path);
void append_v2_routes(std::vector<RouteName>& names);
Withdraw answer_v2(ServeState& state, const V2Route& route, const HttpRequest& request, Reply reply,
                   TracePtr trace);
/// The model of a route, where its version is the one that is served.
Result<ModelRef> find_v2_model(const ServeState& state, const V2Route& route);
/// An error as that protocol writes it.
HttpResponse v2_error(const ApiError& error);

// routes_infer.cpp
Withdraw post_infer(ServeState& state, const V2Route& route, const HttpRequest& request,
                    Reply reply, TracePtr trace);

}  // namespace cortex
