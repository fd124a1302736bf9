#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace cortex {

/// Whether a request may come from a web page that a browser on this machine shows: such a page
/// reaches loopback although no one gave it a key. Browsers name the page in Origin; a page that
/// had its own name resolved to 127.0.0.1 gives itself away by Host.
///
/// Allowed: no Origin or one of `allowed`, and a Host that no page can own (an address, localhost,
/// a name without dots) or that belongs to one of `allowed`.
bool from_trusted_page(std::string_view origin, std::string_view host,
                       const std::vector<std::string>& allowed);

}  // namespace cortex
