#include "serve/origin.h"

#include <arpa/inet.h>

#include <algorithm>

namespace cortex {
namespace {

/// A Host header or the authority of an origin, without its port.
std::string_view without_port(std::string_view host) {
  if (!host.empty() && host.front() == '[') return host.substr(0, host.find(']') + 1);
  return host.substr(0, host.rfind(':'));
}

std::string_view host_of(std::string_view origin) {
  const auto scheme = origin.find("://");
  return scheme == std::string_view::npos ? origin : without_port(origin.substr(scheme + 3));
}

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

bool no_page_owns(std::string_view host) {
  if (host.find('.') == std::string_view::npos) return true;  // also [::1]
  if (ends_with(host, ".localhost")) return true;
  in_addr v4{};
  return inet_pton(AF_INET, std::string(host).c_str(), &v4) == 1;
}

}  // namespace

bool from_trusted_page(std::string_view origin, std::string_view host,
                       const std::vector<std::string>& allowed) {
  if (!origin.empty() && std::find(allowed.begin(), allowed.end(), origin) == allowed.end())
    return false;
  const std::string_view name = without_port(host);
  return no_page_owns(name) || std::any_of(allowed.begin(), allowed.end(),
                                           [&](const auto& o) { return host_of(o) == name; });
}

}  // namespace cortex
