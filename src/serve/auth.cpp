#include "serve/auth.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <limits>
#include <utility>

#include "core/file.h"
#include "serve/server.h"

namespace cortex {
namespace {

constexpr std::size_t kShortestKey = 16;
constexpr std::size_t kLongestName = 64;

/// Runs over what was given, so its time tells only what the client knows already.
bool equal(std::string_view given, std::string_view key) {
  unsigned char difference = given.size() == key.size() ? 0 : 1;
  for (std::size_t i = 0; i < given.size(); ++i)
    difference =
        static_cast<unsigned char>(difference | (static_cast<unsigned char>(given[i]) ^
                                                 static_cast<unsigned char>(key[i % key.size()])));
  return difference == 0;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  constexpr std::string_view kSpaces = " \t\r";
  for (;;) {
    const auto begin = line.find_first_not_of(kSpaces);
    if (begin == std::string_view::npos) return words;
    line.remove_prefix(begin);
    const auto end = std::min(line.find_first_of(kSpaces), line.size());
    words.push_back(line.substr(0, end));
    line.remove_prefix(end);
  }
}

bool is_printable(std::string_view word) {
  return std::all_of(word.begin(), word.end(),
                     [](unsigned char c) { return c > 0x20 && c < 0x7f; });
}

bool is_name(std::string_view word) {
  return word.size() <= kLongestName && std::all_of(word.begin(), word.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

}  // namespace

const KeyRing::Key* KeyRing::key_of_tenant(std::string_view tenant) const {
  const auto found = std::find_if(keys_.begin(), keys_.end(),
                                  [&](const Key& key) { return key.caller.tenant == tenant; });
  return found == keys_.end() ? nullptr : &*found;
}

std::vector<std::string> KeyRing::tenants() const {
  std::vector<std::string> names;
  for (const Key& key : keys_)
    if (key_of_tenant(key.caller.tenant) == &key) names.push_back(key.caller.tenant);
  return names;
}

Result<void> KeyRing::number_tenants(const std::string& path, int max_tenants,
                                     const KeyRing& before) {
  // 0 is whoever comes without a key.
  std::vector<bool> taken(static_cast<std::size_t>(std::max(max_tenants, 1)), false);
  taken[0] = true;
  const auto names = tenants();
  if (names.size() >= taken.size())
    return Error{ErrorCode::invalid_argument,
                 fmt::format("{}: {} tenants are more than --max-tenants = {} allows (one is kept "
                             "for requests without a key)",
                             path, names.size(), max_tenants),
                 "max-tenants"};
  const auto number = [this](const std::string& name, TenantId id) {
    for (Key& key : keys_)
      if (key.caller.tenant == name) key.caller.id = id;
  };
  for (const std::string& name : names)
    if (const Key* known = before.key_of_tenant(name)) {
      number(name, known->caller.id);
      taken[known->caller.id] = true;
    }
  for (const std::string& name : names) {
    if (key_of_tenant(name)->caller.id != 0) continue;
    const auto free = std::find(taken.begin(), taken.end(), false);
    *free = true;
    number(name, static_cast<TenantId>(free - taken.begin()));
  }
  return {};
}

Result<KeyRing> KeyRing::parse(std::string_view text, const std::string& path, int max_tenants,
                               const KeyRing& before) {
  KeyRing ring;
  int number = 0;
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    const auto words = words_of(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (words.empty() || words.front().front() == '#') continue;
    const auto wrong = [&](std::string_view rule) {
      return Error{ErrorCode::invalid_argument, fmt::format("{}:{}: {}", path, number, rule),
                   "api-key-file"};
    };
    if (words.size() > 3 || (words.size() == 3 && words[2] != "admin"))
      return wrong("a line is KEY, TENANT KEY or TENANT KEY admin");
    const std::string_view secret = words.size() == 1 ? words[0] : words[1];
    if (secret.size() < kShortestKey || !is_printable(secret))
      return wrong("an API key has at least 16 printable characters without spaces");
    if (words.size() > 1 && !is_name(words[0]))
      return wrong("a tenant's name has letters, digits, '.', '_' and '-', at most 64");
    for (const Key& other : ring.keys_)
      if (other.secret == secret) return wrong("this key is in the file already");
    ring.keys_.push_back({std::string(secret),
                          {.tenant = words.size() == 1 ? "default" : std::string(words[0]),
                           .is_admin = words.size() != 2}});
  }
  if (ring.keys_.empty())
    return Error{ErrorCode::invalid_argument,
                 path + ": no API key in it; a key is a line of at least 16 printable characters",
                 "api-key-file"};
  if (auto numbered = ring.number_tenants(path, max_tenants, before); !numbered)
    return numbered.error();
  return ring;
}

std::optional<Caller> KeyRing::find(std::string_view authorization) const {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() <= kScheme.size()) return std::nullopt;
  for (std::size_t i = 0; i < kScheme.size(); ++i)
    if (std::tolower(static_cast<unsigned char>(authorization[i])) != kScheme[i])
      return std::nullopt;
  const std::string_view given = authorization.substr(kScheme.size());
  const Key* found = nullptr;
  for (const Key& key : keys_)
    if (equal(given, key.secret)) found = &key;
  if (found == nullptr) return std::nullopt;
  return found->caller;
}

KeyFile::Stamp KeyFile::stamp_of(const std::string& path) {
  struct stat s {};
  if (::stat(path.c_str(), &s) != 0) return {};
  return {s.st_mtim.tv_sec * 1'000'000'000LL + s.st_mtim.tv_nsec, s.st_size, s.st_ino};
}

Result<KeyFile> KeyFile::open(const std::string& path, int max_tenants) {
  KeyFile file;
  file.path_ = path;
  file.max_tenants_ = max_tenants;
  if (auto read = file.refresh(true); !read) return read.error();
  return file;
}

Result<bool> KeyFile::refresh(bool always) {
  const Stamp stamp = stamp_of(path_);
  if (!always && stamp == stamp_) return false;
  stamp_ = stamp;  // an unreadable file is reported once, not at every look
  const auto bytes = read_file(path_);
  if (!bytes) return bytes.error();
  auto keys = KeyRing::parse({reinterpret_cast<const char*>(bytes->data()), bytes->size()}, path_,
                             max_tenants_, keys_);
  if (!keys) return keys.error();
  keys_ = *std::move(keys);
  return true;
}

Result<std::string> read_api_key(const std::string& path) {
  const auto file = KeyFile::open(path, std::numeric_limits<std::uint16_t>::max());
  if (!file) return file.error();
  return file->keys().first();
}

bool is_loopback(const std::string& host) {
  if (host == "localhost") return true;
  in_addr v4{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6{};
  if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) return false;
  return IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127);
}

}  // namespace cortex
