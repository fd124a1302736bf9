#include "dandi/http.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <optional>
#include <string_view>
#include <thread>

namespace cortex::dandi {
namespace {

constexpr std::size_t kErrorBytes = 200;  // of a refusal's body, for the message

void start_curl() {
  static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)started;
}

bool may_pass(long status) { return status >= 500 || status == 408 || status == 429; }

bool may_pass(CURLcode code) {
  switch (code) {
    case CURLE_COULDNT_CONNECT:
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
    case CURLE_OPERATION_TIMEDOUT:
    case CURLE_PARTIAL_FILE:
    case CURLE_GOT_NOTHING:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_HTTP2:
    case CURLE_HTTP2_STREAM:
    case CURLE_SSL_CONNECT_ERROR:
      return true;
    default:
      return false;
  }
}

bool header_is(std::string_view line, std::string_view name) {
  return line.size() > name.size() && line[name.size()] == ':' &&
         std::equal(name.begin(), name.end(), line.begin(), [](char a, char b) {
           return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b - 'A' + 'a') : b);
         });
}

std::string header_value(std::string_view line) {
  line.remove_prefix(line.find(':') + 1);
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; };
  while (!line.empty() && blank(line.front())) line.remove_prefix(1);
  while (!line.empty() && blank(line.back())) line.remove_suffix(1);
  return std::string(line);
}

}  // namespace

/// One request and what has come of it.
struct HttpSession::Transfer {
  enum class Kind { text, range, whole };

  Kind kind = Kind::text;
  std::string url;
  std::uint64_t first = 0, count = 0, total = 0;
  const Sink* sink = nullptr;
  std::size_t limit = 0;  // of text

  CURL* curl = nullptr;
  std::string text;
  std::string refusal;  // start of the body of a status that is an error
  std::string content_range;
  double retry_after_s = 0;
  std::uint64_t received = 0;
  bool checked = false;
  bool ranges_ignored = false;
  bool over_limit = false;
  std::optional<Error> sink_error;
  std::string wrong_reply;  // why a reply is not what was asked for

  void restart() {
    text.clear();
    refusal.clear();
    content_range.clear();
    retry_after_s = 0;
    received = 0;
    checked = ranges_ignored = over_limit = false;
    sink_error.reset();
    wrong_reply.clear();
  }

  long status() const {
    long code = 0;
    curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
    return code;
  }

  /// Whether the reply's head promises the bytes that were asked for.
  bool check_head() {
    const long code = status();
    if (kind == Kind::range && code == 200 && !(first == 0 && count == total)) {
      ranges_ignored = true;
      return false;
    }
    if (kind == Kind::range && code == 206) {
      const std::string wanted = fmt::format("bytes {}-{}/{}", first, first + count - 1, total);
      if (content_range != wanted)
        wrong_reply = fmt::format("sent '{}' instead of '{}'", content_range, wanted);
    } else if (code != 200) {
      wrong_reply = fmt::format("answered {} to a request for the whole file", code);
    }
    curl_off_t length = -1;
    curl_easy_getinfo(curl, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
    if (wrong_reply.empty() && length >= 0 && static_cast<std::uint64_t>(length) != count)
      wrong_reply = fmt::format("announces {} bytes instead of {}", length, count);
    return wrong_reply.empty();
  }

  bool take(std::span<const std::byte> bytes) {
    if (status() >= 300) {
      const std::size_t room = kErrorBytes - std::min(kErrorBytes, refusal.size());
      refusal.append(reinterpret_cast<const char*>(bytes.data()), std::min(room, bytes.size()));
      received += bytes.size();
      return received <= (1u << 20);
    }
    if (kind == Kind::text) {
      over_limit = bytes.size() > limit - text.size();
      if (!over_limit) text.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
      return !over_limit;
    }
    if (!checked && !check_head()) return false;
    checked = true;
    if (bytes.size() > count - received) {
      wrong_reply = fmt::format("sends more than the {} bytes asked for", count);
      return false;
    }
    if (auto ok = (*sink)(first + received, bytes); !ok) {
      sink_error = ok.error();
      return false;
    }
    received += bytes.size();
    return true;
  }

  static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self) {
    const std::span bytes(reinterpret_cast<const std::byte*>(data), size * count);
    return static_cast<Transfer*>(self)->take(bytes) ? bytes.size() : 0;
  }

  static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self) {
    auto& transfer = *static_cast<Transfer*>(self);
    const std::string_view line(data, size * count);
    if (line.starts_with("HTTP/")) {
      transfer.content_range.clear();
      transfer.retry_after_s = 0;
    } else if (header_is(line, "content-range")) {
      transfer.content_range = header_value(line);
    } else if (header_is(line, "retry-after")) {
      // A date, the other form, counts as nothing said.
      const std::string value = header_value(line);
      int seconds = 0;
      std::from_chars(value.data(), value.data() + value.size(), seconds);
      transfer.retry_after_s = std::max(0, seconds);
    }
    return line.size();
  }
};

/// `error` empty: done. `again`: worth another attempt.
struct HttpSession::Verdict {
  std::optional<Error> error;
  bool again = false;
};

HttpSession::HttpSession(HttpPolicy policy)
    : policy_(policy), handle_((start_curl(), curl_easy_init()), curl_easy_cleanup) {}
HttpSession::~HttpSession() = default;

HttpSession::Verdict HttpSession::perform(Transfer& t) {
  CURL* curl = handle_.get();
  const auto failed = [&](ErrorCode code, const std::string& what, bool again) {
    return Verdict{Error{code, fmt::format("{}: {}", t.url, what), "url"}, again};
  };
  if (curl == nullptr) return failed(ErrorCode::internal, "libcurl did not start", false);
  t.restart();
  t.curl = curl;
  curl_easy_reset(curl);
  char reason[CURL_ERROR_SIZE] = {};
  const auto milliseconds = [](double s) { return std::max(1L, std::lround(s * 1000)); };
  curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, reason);
  curl_easy_setopt(curl, CURLOPT_URL, t.url.c_str());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_USERAGENT, "cortex-download");
  curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 1L);
  curl_easy_setopt(curl, CURLOPT_MAXREDIRS, policy_.redirects);
  const long protocols = CURLPROTO_HTTPS | (t.url.starts_with("http://") ? CURLPROTO_HTTP : 0L);
#if LIBCURL_VERSION_NUM >= 0x075500
  const char* names = (protocols & CURLPROTO_HTTP) != 0 ? "http,https" : "https";
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, names);
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS_STR, names);
#else
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS, protocols);
  curl_easy_setopt(curl, CURLOPT_REDIR_PROTOCOLS, protocols);
#endif
  curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS, milliseconds(policy_.connect_timeout_s));
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
  curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME,
                   std::max(1L, std::lround(policy_.stall_timeout_s)));
  if (t.kind == Transfer::Kind::text)
    curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, milliseconds(policy_.page_timeout_s));
  const std::string range = fmt::format("{}-{}", t.first, t.first + t.count - 1);
  if (t.kind == Transfer::Kind::range) curl_easy_setopt(curl, CURLOPT_RANGE, range.c_str());
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &Transfer::on_body);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &t);
  curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, &Transfer::on_header);
  curl_easy_setopt(curl, CURLOPT_HEADERDATA, &t);
  const CURLcode code = curl_easy_perform(curl);

  if (t.ranges_ignored) return {};
  if (t.sink_error) return Verdict{t.sink_error, false};
  if (t.over_limit)
    return failed(ErrorCode::too_large, fmt::format("the page is longer than {} bytes", t.limit),
                  false);
  if (!t.wrong_reply.empty())
    return failed(ErrorCode::unavailable, "the server " + t.wrong_reply, true);
  if (code == CURLE_TOO_MANY_REDIRECTS)
    return failed(ErrorCode::unsupported,
                  fmt::format("more than {} redirects in a row", policy_.redirects), false);
  const long status = t.status();
  // A redirect is a refusal only where it was not followed; else its reason is libcurl's.
  if (status >= 400 || (status >= 300 && code == CURLE_OK)) {
    const std::string said = t.refusal.empty() ? "" : ": " + t.refusal;
    return failed(status == 404      ? ErrorCode::not_found
                  : may_pass(status) ? ErrorCode::unavailable
                                     : ErrorCode::unsupported,
                  fmt::format("the server answered {}{}", status, said), may_pass(status));
  }
  if (code != CURLE_OK) {
    const char* what = reason[0] != '\0' ? reason : curl_easy_strerror(code);
    return failed(ErrorCode::unavailable, what, may_pass(code));
  }
  if (t.kind != Transfer::Kind::text && t.received != t.count)
    return failed(ErrorCode::unavailable,
                  fmt::format("the server sent {} bytes instead of {}", t.received, t.count), true);
  return {};
}

Result<void> HttpSession::retry(Transfer& transfer) {
  for (int attempt = 1;; ++attempt) {
    Verdict verdict = perform(transfer);
    if (!verdict.error) return {};
    if (!verdict.again) return *verdict.error;
    if (attempt >= policy_.attempts) {
      verdict.error->message += fmt::format(" (attempt {} of {})", attempt, policy_.attempts);
      return *verdict.error;
    }
    const double pause = std::max(policy_.backoff_s * std::ldexp(1.0, std::min(attempt - 1, 10)),
                                  transfer.retry_after_s);
    std::this_thread::sleep_for(
        std::chrono::duration<double>(std::min(pause, policy_.longest_wait_s)));
  }
}

Result<std::string> HttpSession::get_text(const std::string& url) {
  Transfer transfer;
  transfer.url = url;
  transfer.limit = policy_.page_bytes;
  if (auto ok = retry(transfer); !ok) return ok.error();
  return std::move(transfer.text);
}

Result<RangeOutcome> HttpSession::get_range(const std::string& url, std::uint64_t first,
                                            std::uint64_t count, std::uint64_t total,
                                            const Sink& sink) {
  Transfer transfer;
  transfer.kind = Transfer::Kind::range;
  transfer.url = url;
  transfer.first = first;
  transfer.count = count;
  transfer.total = total;
  transfer.sink = &sink;
  if (auto ok = retry(transfer); !ok) return ok.error();
  return transfer.ranges_ignored ? RangeOutcome::ranges_ignored : RangeOutcome::complete;
}

Result<void> HttpSession::get_whole(const std::string& url, std::uint64_t total, const Sink& sink) {
  Transfer transfer;
  transfer.kind = Transfer::Kind::whole;
  transfer.url = url;
  transfer.count = transfer.total = total;
  transfer.sink = &sink;
  return retry(transfer);
}

}  // namespace cortex::dandi
