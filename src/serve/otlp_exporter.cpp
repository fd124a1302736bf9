#include "serve/otlp_exporter.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <ctime>
#include <random>
#include <string_view>
#include <utility>
#include <vector>

#include "core/log.h"
#include "core/thread.h"
#include "serve/otlp_json.h"

namespace cortex {
namespace {

constexpr std::chrono::milliseconds kEvery{500};
constexpr std::size_t kRecordsAPost = 256;
constexpr timeval kPatience{2, 0};

/// A descriptor that closes itself.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

bool connect_to(int fd, const addrinfo& address) {
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience);  // of connect, too
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &kPatience, sizeof kPatience);
  return ::connect(fd, address.ai_addr, address.ai_addrlen) == 0;
}

bool send_all(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return false;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return true;
}

/// Whether the first line of the answer is a success.
bool receive_success(int fd) {
  std::string head;
  char chunk[512];
  while (head.size() < 16) {
    const auto n = ::recv(fd, chunk, sizeof chunk, 0);
    if (n <= 0) return false;
    head.append(chunk, static_cast<std::size_t>(n));
  }
  return head.starts_with("HTTP/1.") && head[8] == ' ' && head[9] == '2';
}

std::int64_t epoch_ns() {
  timespec real{};
  timespec mono{};
  ::clock_gettime(CLOCK_REALTIME, &real);
  ::clock_gettime(CLOCK_MONOTONIC, &mono);
  return (real.tv_sec - mono.tv_sec) * 1'000'000'000LL + (real.tv_nsec - mono.tv_nsec);
}

}  // namespace

Result<OtlpEndpoint> parse_otlp_url(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  const auto wrong = [&](std::string_view rule) {
    return Error{ErrorCode::invalid_argument, fmt::format("{}: {}", url, rule), "otlp"};
  };
  if (!url.starts_with(kScheme))
    return wrong("traces go to http://HOST:PORT; for TLS put a collector on this machine");
  const std::string_view rest = std::string_view(url).substr(kScheme.size());
  const auto slash = rest.find('/');
  const std::string_view authority = rest.substr(0, slash);
  const auto bracket = authority.rfind(']');
  const auto colon = authority.find(':', bracket == std::string_view::npos ? 0 : bracket);
  OtlpEndpoint endpoint;
  endpoint.host = std::string(authority.substr(0, colon));
  if (endpoint.host.starts_with('[') && endpoint.host.ends_with(']'))
    endpoint.host = endpoint.host.substr(1, endpoint.host.size() - 2);
  endpoint.port =
      colon == std::string_view::npos ? "4318" : std::string(authority.substr(colon + 1));
  endpoint.path = slash == std::string_view::npos || slash + 1 == rest.size()
                      ? "/v1/traces"
                      : std::string(rest.substr(slash));
  if (endpoint.host.empty() || endpoint.port.empty()) return wrong("no host or port");
  return endpoint;
}

OtlpExporter::OtlpExporter(OtlpEndpoint endpoint, TraceQueue& queue)
    : endpoint_(std::move(endpoint)), queue_(queue), thread_([this] { run(); }) {}

OtlpExporter::~OtlpExporter() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

void OtlpExporter::run() {
  name_this_thread("cortex-traces");
  // What waits at the end is sent even where that comes before the thread has begun.
  for (bool is_last = false; !is_last;) {
    {
      std::unique_lock lock(mutex_);
      is_last = changed_.wait_for(lock, kEvery, [this] { return stopping_; });
    }
    export_all();
  }
}

void OtlpExporter::export_all() {
  const auto new_span = [this] {
    const std::uint64_t bits = random_() | 1;
    SpanId id;
    std::memcpy(id.data(), &bits, sizeof bits);
    return id;
  };
  for (;;) {
    std::vector<TraceRecord> records;
    TraceRecord record;
    while (records.size() < kRecordsAPost && queue_.pop(record))
      records.push_back(std::move(record));
    if (records.empty()) return;
    const auto n = static_cast<std::int64_t>(records.size());
    if (post(otlp_json(records, epoch_ns(), new_span))) {
      exported_.fetch_add(n, std::memory_order_relaxed);
      continue;
    }
    if (lost_.fetch_add(n, std::memory_order_relaxed) == 0)
      log::warn(fmt::format("traces are lost: http://{}:{}{} does not take them", endpoint_.host,
                            endpoint_.port, endpoint_.path));
    return;  // what waits may wait for the next time, or be dropped where it does not fit
  }
}

bool OtlpExporter::post(const std::string& body) const {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(endpoint_.host.c_str(), endpoint_.port.c_str(), &hints, &found) != 0)
    return false;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  const std::string head = fmt::format(
      "POST {} HTTP/1.1\r\nHost: {}:{}\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\nConnection: close\r\n\r\n",
      endpoint_.path, endpoint_.host, endpoint_.port, body.size());
  for (const addrinfo* a = addresses.get(); a != nullptr; a = a->ai_next) {
    const Socket socket(::socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol));
    if (socket.fd() < 0 || !connect_to(socket.fd(), *a)) continue;
    return send_all(socket.fd(), head) && send_all(socket.fd(), body) &&
           receive_success(socket.fd());
  }
  return false;
}

}  // namespace cortex
