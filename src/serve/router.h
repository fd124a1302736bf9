#pragma once

#include <memory>
#include <optional>
#include <variant>

#include "serve/api_error.h"
#include "serve/serve_state.h"
#include "serve/transport.h"

/// From a method and a path to the code that answers.
namespace cortex {

class Router {
 public:
  explicit Router(ServeState& state) : state_(state) {}

  void handle(const HttpRequest& request, const Reply& reply);
  /// A WebSocket upgrade: whoever will talk to it, or the answer that refuses it.
  std::variant<std::shared_ptr<SocketHandler>, HttpResponse> upgrade(const HttpRequest& request);
  /// An answer to something that never became a request.
  HttpResponse refuse(const ApiError& error);

 private:
  std::optional<ApiError> forbidden(const HttpRequest& request) const;
  ServeState& state_;
};

/// 503 while the model loads and while the server drains.
std::optional<ApiError> not_serving(const ServeState& state);

// routes_decode.cpp
void post_decode(ServeState& state, const HttpRequest& request, const Reply& reply);

// routes_stream.cpp
std::shared_ptr<SocketHandler> make_stream_socket(ServeState& state);

// routes_status.cpp
HttpResponse get_health(const ServeState& state);
HttpResponse get_ready(const ServeState& state);
HttpResponse get_metrics(const ServeState& state);
HttpResponse get_model(const ServeState& state);
HttpResponse get_index(const ServeState& state);

}  // namespace cortex
