#pragma once

#include <cortex/engine.h>
#include <cortex/result.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// API keys: a line of the file is `KEY` or `TENANT KEY` or `TENANT KEY admin`; `#` begins a
/// comment. A lone key belongs to the tenant "default" and may administer models. A tenant may have
/// several keys, so that one can be replaced while both work.
namespace cortex {

struct Caller {
  std::string tenant = {};  ///< empty: the server asks for no keys
  TenantId id = 0;          ///< what the engine knows the tenant by
  bool is_admin = false;
};

class KeyRing {
 public:
  /// invalid_argument names the file and the line, never the key. `before`: tenants that it knows
  /// keep their ids.
  static Result<KeyRing> parse(std::string_view text, const std::string& path, int max_tenants,
                               const KeyRing& before);

  /// Whose key an Authorization header carries ("Bearer KEY"). Every key is compared to its end, so
  /// the time tells nothing about them.
  std::optional<Caller> find(std::string_view authorization) const;
  std::size_t size() const { return keys_.size(); }
  const std::string& first() const { return keys_.front().secret; }
  /// Names of tenants, each once.
  std::vector<std::string> tenants() const;

 private:
  struct Key {
    std::string secret;
    Caller caller;
  };
  const Key* key_of_tenant(std::string_view tenant) const;
  Result<void> number_tenants(const std::string& path, int max_tenants, const KeyRing& before);

  std::vector<Key> keys_;
};

/// The keys in a file that may change while it is used.
class KeyFile {
 public:
  static Result<KeyFile> open(const std::string& path, int max_tenants);

  /// Reads the file again where it has changed, or always. After an error the old keys stay.
  Result<bool> refresh(bool always);
  const KeyRing& keys() const { return keys_; }

 private:
  struct Stamp {
    std::int64_t modified_ns = 0;
    std::int64_t size = 0;
    std::uint64_t inode = 0;
    friend bool operator==(const Stamp&, const Stamp&) = default;
  };
  static Stamp stamp_of(const std::string& path);

  std::string path_;
  int max_tenants_ = 0;
  Stamp stamp_;
  KeyRing keys_;
};

}  // namespace cortex
