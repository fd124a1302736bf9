#include "dandi/digest.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

namespace cortex::dandi {
namespace {

constexpr std::uint64_t kPartBytes = 64u << 20;
constexpr std::uint64_t kMaxParts = 10'000;

using Bytes = std::vector<unsigned char>;

class Hash {
 public:
  explicit Hash(const EVP_MD* kind) : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free), kind_(kind) {
    EVP_DigestInit_ex(context_.get(), kind_, nullptr);
  }
  void add(const unsigned char* data, std::size_t size) {
    EVP_DigestUpdate(context_.get(), data, size);
  }
  /// The digest so far; then starts anew.
  Bytes finish() {
    Bytes digest(static_cast<std::size_t>(EVP_MD_size(kind_)));
    EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr);
    EVP_DigestInit_ex(context_.get(), kind_, nullptr);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context_;
  const EVP_MD* kind_;
};

std::string hex(const Bytes& bytes) {
  std::string text;
  for (const unsigned char byte : bytes) text += fmt::format("{:02x}", byte);
  return text;
}

}  // namespace

std::uint64_t etag_part_bytes(std::uint64_t file_bytes) {
  const auto parts = [&](std::uint64_t size) { return (file_bytes + size - 1) / size; };
  if (parts(kPartBytes) < kMaxParts) return kPartBytes;
  return (file_bytes + kMaxParts - 1) / kMaxParts;
}

Result<Digests> digest_file(const std::string& path, const Digests& wanted) {
  const auto failed = [&](const char* what) {
    const int reason = errno;
    return Error{reason == ENOENT ? ErrorCode::not_found : ErrorCode::io_error,
                 fmt::format("{}: {}: {}", path, what, std::strerror(reason)), "path"};
  };
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"),
                                                             std::fclose);
  if (!file) return failed("cannot open");
  std::fseek(file.get(), 0, SEEK_END);
  const std::uint64_t part_bytes =
      etag_part_bytes(static_cast<std::uint64_t>(std::ftell(file.get())));
  std::rewind(file.get());
  Hash sha(EVP_sha256()), part(EVP_md5()), whole(EVP_md5());
  std::uint64_t parts = 0, in_part = 0;
  const auto end_part = [&] {
    const Bytes digest = part.finish();
    whole.add(digest.data(), digest.size());
    ++parts;
    in_part = 0;
  };
  std::vector<unsigned char> buffer(1u << 20);
  while (const std::size_t n = std::fread(buffer.data(), 1, buffer.size(), file.get())) {
    if (!wanted.sha256.empty()) sha.add(buffer.data(), n);
    if (wanted.dandi_etag.empty()) continue;
    for (std::size_t at = 0; at < n;) {
      const auto take =
          static_cast<std::size_t>(std::min<std::uint64_t>(n - at, part_bytes - in_part));
      part.add(buffer.data() + at, take);
      at += take;
      in_part += take;
      if (in_part == part_bytes) end_part();
    }
  }
  if (std::ferror(file.get())) return failed("cannot read");
  if (in_part > 0) end_part();
  Digests found;
  if (!wanted.sha256.empty()) found.sha256 = hex(sha.finish());
  if (!wanted.dandi_etag.empty())
    found.dandi_etag = fmt::format("{}-{}", hex(whole.finish()), parts);
  return found;
}

Result<void> check_digests(const std::string& path, const Digests& found, const Digests& wanted) {
  const auto differs = [&](const char* name, const std::string& is, const std::string& should) {
    return Error{ErrorCode::corrupt_data,
                 fmt::format("{}: its {} is {}, the archive says {}", path, name, is, should),
                 "digest"};
  };
  if (!wanted.sha256.empty() && found.sha256 != wanted.sha256)
    return differs("SHA-256", found.sha256, wanted.sha256);
  if (!wanted.dandi_etag.empty() && found.dandi_etag != wanted.dandi_etag)
    return differs("dandi-etag", found.dandi_etag, wanted.dandi_etag);
  return {};
}

}  // namespace cortex::dandi
