#pragma once

#include <cortex/result.h>

#include <cstdint>
#include <string>

namespace cortex::dandi {

/// What an archive says a file's bytes add up to, in lower-case hex; empty where it says nothing.
struct Digests {
  std::string sha256;      ///< `dandi:sha2-256`, 64 hex digits
  std::string dandi_etag;  ///< `dandi:dandi-etag`: the MD5 of the parts' MD5s, '-', how many parts

  bool any() const { return !sha256.empty() || !dandi_etag.empty(); }
};

/// Size of a dandi-etag's parts: 64 MiB, or what makes at most 10,000 parts of larger files.
/// Source: dandischema/digests/dandietag.py.
std::uint64_t etag_part_bytes(std::uint64_t file_bytes);

/// Computes those of `wanted` that are not empty. not_found or io_error name the file.
Result<Digests> digest_file(const std::string& path, const Digests& wanted);

/// corrupt_data, saying which digest is what, unless `found` has all that is in `wanted`.
Result<void> check_digests(const std::string& path, const Digests& found, const Digests& wanted);

}  // namespace cortex::dandi
