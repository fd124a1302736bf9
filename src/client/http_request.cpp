#include <cortex/client.h>
#include <fmt/format.h>

#include "client/connection.h"

namespace cortex {
namespace {

Result<HttpAnswer> request(const std::string& url, std::string_view method, const std::string& path,
                           const std::string& body, const ClientOptions& options) {
  const TimeNs until = RealClock::instance().now() + static_cast<TimeNs>(options.timeout_s * 1e9);
  auto connection = ClientConnection::connect(url, options, until);
  if (!connection) return connection.error();
  const auto reply = connection->exchange(
      http_request(method, path, connection->address().authority(), options.api_key, body, false),
      until);
  if (!reply)
    return Error{reply.error().code, fmt::format("{}{}: {}", url, path, reply.error().message), ""};
  return HttpAnswer{reply->status, std::string(reply->body)};
}

}  // namespace

Result<HttpAnswer> http_get(const std::string& url, const std::string& path,
                            const ClientOptions& options) {
  return request(url, "GET", path, "", options);
}
Result<HttpAnswer> http_post(const std::string& url, const std::string& path,
                             const std::string& json, const ClientOptions& options) {
  return request(url, "POST", path, json, options);
}

}  // namespace cortex
