#include "client/address.h"

#include <fmt/format.h>

#include <string_view>

namespace cortex {
namespace {

constexpr std::string_view kUnix = "unix:";

Error bad_url(const std::string& url, std::string_view why) {
  return {ErrorCode::invalid_argument, fmt::format("{}: {}", url, why), "url"};
}

}  // namespace

Result<Address> parse_url(const std::string& url) {
  std::string_view rest = url;
  Address address;
  if (rest.starts_with(kUnix)) {
    rest.remove_prefix(kUnix.size());
    if (rest.starts_with("//")) rest.remove_prefix(2);
    address.path = std::string(rest);
    if (address.path.empty()) return bad_url(url, "no path of a socket");
    return address;
  }
  const auto scheme = rest.find("://");
  if (scheme != std::string_view::npos) {
    const std::string_view name = rest.substr(0, scheme);
    address.is_tls = name == "https" || name == "wss";
    if (!address.is_tls && name != "http" && name != "ws")
      return bad_url(url, "only http, https, ws, wss and unix: are understood");
    rest.remove_prefix(scheme + 3);
  }
  rest = rest.substr(0, rest.find('/'));
  address.port = address.is_tls ? "443" : "80";
  const auto bracket = rest.find(']');
  const auto colon = rest.find(':', bracket == std::string_view::npos ? 0 : bracket);
  if (colon != std::string_view::npos) address.port = std::string(rest.substr(colon + 1));
  rest = rest.substr(0, colon);
  if (rest.size() > 1 && rest.front() == '[' && rest.back() == ']')
    rest = rest.substr(1, rest.size() - 2);
  address.host = std::string(rest);
  if (address.host.empty() || address.port.empty()) return bad_url(url, "no host or port");
  return address;
}

}  // namespace cortex
