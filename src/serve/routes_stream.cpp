#include <utility>

#include "serve/query.h"
#include "serve/router.h"
#include "serve/stream_socket.h"

namespace cortex {

std::variant<std::shared_ptr<SocketHandler>, ApiError> make_stream_socket(
    ServeState& state, const HttpRequest& request, std::string_view route, bool takes_binary) {
  StreamOrigin origin{.route = route,
                      .takes_binary = takes_binary,
                      .model = query_value(request.query, "model"),
                      .client = std::string(client_of(request)),
                      .caller = request.caller,
                      .request_id = request.request_id,
                      .trace = parse_traceparent(request.traceparent)};
  auto model = state.model(origin.model);
  if (!model) return ApiError(model.error());
  return std::make_shared<StreamSocket>(state, std::move(origin), *std::move(model));
}

}  // namespace cortex
