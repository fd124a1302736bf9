#pragma once

#include <string_view>

#include "serve/serve_state.h"
#include "serve/transport.h"

/// Request ids and the lines that carry them. Steps of a stream are never logged; their sessions
/// are.
namespace cortex::access_log {

/// Keeps the client's X-Request-Id where it is one (printable, at most 128 characters); else
/// leaves none.
void name_request(HttpRequest& request);

/// A reply that carries the request's id back and, with --log-requests, logs what was answered.
/// Without an id and without logging it is `reply` itself.
Reply follow(const ServeState& state, HttpRequest& request, std::string_view endpoint, Reply reply);

struct Session {
  std::string_view route;
  std::string_view model;
  std::string_view tenant;
  std::string_view client;
  std::string_view request_id;
  SessionId session = 0;
};
void session(std::string_view what, const Session& session);

}  // namespace cortex::access_log
