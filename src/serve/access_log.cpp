#include "serve/access_log.h"

#include <fmt/format.h>

#include <string>
#include <utility>

#include "core/log.h"

namespace cortex::access_log {
namespace {

constexpr std::size_t kLongestId = 128;
constexpr std::size_t kLongestPath = 200;

std::string made_up_id() {
  static std::uint64_t count = 0;
  return fmt::format("{:x}-{}", RealClock::instance().now(), ++count);
}

}  // namespace

void name_request(HttpRequest& request) {
  if (request.request_id.size() > kLongestId) request.request_id.clear();
}

Reply follow(const ServeState& state, HttpRequest& request, std::string_view endpoint,
             Reply reply) {
  const bool logged = state.options.log_requests;
  if (!logged && request.request_id.empty()) return reply;
  if (request.request_id.empty()) request.request_id = made_up_id();
  std::string line_path = logged ? request.path.substr(0, kLongestPath) : std::string();
  return [logged, endpoint, id = request.request_id, method = request.method,
          path = std::move(line_path), client = std::string(client_of(request)),
          arrived_ns = request.arrived_ns, reply = std::move(reply)](HttpResponse response) {
    response.headers.emplace_back("X-Request-Id", id);
    if (logged)
      log::write(log::Level::info, "request",
                 {{"request_id", id},
                  {"method", method},
                  {"path", path},
                  {"endpoint", endpoint},
                  {"status", std::int64_t{response.status}},
                  {"latency_ms", to_ms(RealClock::instance().now() - arrived_ns)},
                  {"client", client},
                  {"bytes", static_cast<std::int64_t>(response.body.size())}});
    reply(std::move(response));
  };
}

void session(std::string_view what, const Session& s) {
  log::write(log::Level::info, what,
             {{"session", static_cast<std::int64_t>(s.session)},
              {"route", s.route},
              {"model", s.model},
              {"tenant", s.tenant},
              {"client", s.client},
              {"request_id", s.request_id}});
}

}  // namespace cortex::access_log
