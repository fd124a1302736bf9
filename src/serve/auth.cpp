#include "serve/auth.h"

#include <arpa/inet.h>

#include <algorithm>
#include <cctype>

#include "core/file.h"
#include "serve/server.h"

namespace cortex {

bool bearer_matches(std::string_view authorization, std::string_view key) {
  constexpr std::string_view kScheme = "bearer ";
  if (key.empty() || authorization.size() <= kScheme.size()) return false;
  for (std::size_t i = 0; i < kScheme.size(); ++i) {
    const auto c = static_cast<unsigned char>(authorization[i]);
    if (std::tolower(c) != static_cast<unsigned char>(kScheme[i])) return false;
  }
  const std::string_view given = authorization.substr(kScheme.size());
  // Runs over what was given, so its time tells only what the client knows already.
  unsigned char difference = given.size() == key.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i)
    difference =
        static_cast<unsigned char>(difference | (static_cast<unsigned char>(given[i]) ^
                                                 static_cast<unsigned char>(key[i % key.size()])));
  return difference == 0;
}

bool is_loopback(const std::string& host) {
  if (host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  return inet_pton(AF_INET6, host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

Result<std::string> read_api_key(const std::string& path) {
  constexpr std::size_t kShortest = 16;
  const auto bytes = read_file(path);
  if (!bytes) return bytes.error();
  std::string key;
  for (const std::byte b : *bytes) {
    const char c = static_cast<char>(b);
    if (c == '\n') break;
    key += c;
  }
  const auto printable = [](unsigned char c) { return c > 0x20 && c < 0x7f; };
  const auto first = std::find_if(key.begin(), key.end(), printable);
  const auto last = std::find_if(key.rbegin(), key.rend(), printable).base();
  key = first < last ? std::string(first, last) : std::string();
  if (key.size() < kShortest || !std::all_of(key.begin(), key.end(), printable))
    return Error{ErrorCode::invalid_argument,
                 path + ": an API key is a line of at least 16 printable characters without spaces",
                 "api-key-file"};
  return key;
}

}  // namespace cortex
