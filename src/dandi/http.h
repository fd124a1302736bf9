#pragma once

#include <cortex/result.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

/// HTTP for downloads, over libcurl.
///
///     HttpSession session(policy);
///     auto page = session.get_text("https://api.dandiarchive.org/api/dandisets/000128/");
namespace cortex::dandi {

struct HttpPolicy {
  int attempts = 6;                    ///< of one request, in all
  double backoff_s = 0.5;              ///< before the second attempt; doubles from then on
  double longest_wait_s = 60;          ///< a server's Retry-After is followed up to this
  double connect_timeout_s = 20;       ///< for one connection
  double stall_timeout_s = 30;         ///< without a byte
  double page_timeout_s = 120;         ///< for a whole page of text
  std::size_t page_bytes = 64u << 20;  ///< no page of text is longer
  long redirects = 10;
};

enum class RangeOutcome { complete, ranges_ignored };

/// One connection at a time, kept open between requests; for one thread. Redirects are followed,
/// from https to https only. What may pass (5xx, 408, 429, a lost or stalled connection, a reply of
/// the wrong length) is tried again; all else is an error at once. Errors name URL and reason:
/// not_found (404), unavailable (tried in vain), too_large (a page over its limit), unsupported
/// (any other status), io_error (from the sink).
class HttpSession {
 public:
  explicit HttpSession(HttpPolicy policy);
  ~HttpSession();
  HttpSession(const HttpSession&) = delete;
  HttpSession& operator=(const HttpSession&) = delete;

  Result<std::string> get_text(const std::string& url);

  /// Takes bytes at an offset of the file; an error ends the request.
  using Sink = std::function<Result<void>(std::uint64_t offset, std::span<const std::byte> bytes)>;

  /// Bytes [first, first + count) of a file of `total`, in order. After a failed attempt they come
  /// again from `first`. `ranges_ignored`: the server sends whole files only; nothing was taken.
  Result<RangeOutcome> get_range(const std::string& url, std::uint64_t first, std::uint64_t count,
                                 std::uint64_t total, const Sink& sink);
  /// The whole file, in order; likewise.
  Result<void> get_whole(const std::string& url, std::uint64_t total, const Sink& sink);

 private:
  struct Transfer;
  struct Verdict;

  Verdict perform(Transfer& transfer);
  /// Attempts until one succeeds, fails for good or the attempts are used up.
  Result<void> retry(Transfer& transfer);

  HttpPolicy policy_;
  std::unique_ptr<void, void (*)(void*)> handle_;
};

}  // namespace cortex::dandi
