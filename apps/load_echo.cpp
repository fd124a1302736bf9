#include "load_echo.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <utility>

namespace cortex {
namespace {

Error cannot(const char* what) {
  return {ErrorCode::io_error, fmt::format("the echo cannot {}: {}", what, std::strerror(errno)),
          ""};
}

/// A connection of the echo: how much of a request has come.
struct Line {
  explicit Line(int descriptor) : fd(descriptor) {}
  ~Line() { ::close(fd); }
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;
  int fd;
  std::size_t got = 0;
};

}  // namespace

Result<std::unique_ptr<EchoServer>> EchoServer::start(const std::string& path,
                                                      std::size_t request_bytes,
                                                      std::string reply) {
  Address address;
  const bool is_unix = !path.empty();
  const int listener = ::socket(is_unix ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return cannot("open a socket");
  const auto fail = [&](const char* what) {
    Error error = cannot(what);
    ::close(listener);
    return error;
  };
  if (is_unix) {
    sockaddr_un at{};
    at.sun_family = AF_UNIX;
    path.copy(at.sun_path, sizeof at.sun_path - 1);
    if (::bind(listener, reinterpret_cast<sockaddr*>(&at), sizeof at) != 0) return fail("bind");
    address.path = path;
  } else {
    sockaddr_in at{};
    at.sin_family = AF_INET;
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof at;
    if (::bind(listener, reinterpret_cast<sockaddr*>(&at), size) != 0 ||
        ::getsockname(listener, reinterpret_cast<sockaddr*>(&at), &size) != 0)
      return fail("bind");
    address.host = "127.0.0.1";
    address.port = fmt::format("{}", ntohs(at.sin_port));
  }
  if (::listen(listener, SOMAXCONN) != 0) return fail("listen");
  const int stop = ::eventfd(0, EFD_CLOEXEC);
  if (stop < 0) return fail("create an eventfd");
  return std::unique_ptr<EchoServer>(
      new EchoServer(listener, stop, address, request_bytes, std::move(reply)));
}

EchoServer::EchoServer(int listener, int stop, Address address, std::size_t request_bytes,
                       std::string reply)
    : listener_(listener),
      stop_(stop),
      address_(std::move(address)),
      request_bytes_(request_bytes),
      reply_(std::move(reply)),
      thread_([this] { run(); }) {}

EchoServer::~EchoServer() {
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(stop_, &one, sizeof one);
  thread_.join();
  ::close(listener_);
  ::close(stop_);
  if (address_.is_unix()) ::unlink(address_.path.c_str());
}

void EchoServer::run() {
  const int poll = ::epoll_create1(EPOLL_CLOEXEC);
  const auto watch = [poll](int fd) {
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = fd;
    ::epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
  };
  watch(listener_);
  watch(stop_);
  std::map<int, Line> lines;
  std::vector<char> chunk(std::size_t{64} << 10);
  std::array<epoll_event, 64> events;
  for (bool stopping = false; !stopping;) {
    const int ready = ::epoll_wait(poll, events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < ready; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == stop_) {
        stopping = true;
      } else if (fd == listener_) {
        const int accepted = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (accepted < 0) continue;
        const int on = 1;
        ::setsockopt(accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // not of a Unix socket
        lines.try_emplace(accepted, accepted);
        watch(accepted);
      } else {
        const auto found = lines.find(fd);
        if (found == lines.end()) continue;
        Line& line = found->second;
        const auto n = ::recv(fd, chunk.data(), chunk.size(), 0);
        bool is_over = n <= 0;
        if (n > 0) line.got += static_cast<std::size_t>(n);
        for (; !is_over && line.got >= request_bytes_; line.got -= request_bytes_)
          is_over = ::send(fd, reply_.data(), reply_.size(), MSG_NOSIGNAL) !=
                    static_cast<ssize_t>(reply_.size());
        if (is_over) lines.erase(fd);
      }
    }
  }
  ::close(poll);
}

EchoEngine::EchoEngine(ModelInfo model)
    : model_(std::move(model)), behavior_(model_.outputs.size()), thread_([this] { run(); }) {}

EchoEngine::~EchoEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

Result<SessionInfo> EchoEngine::open_session(const SessionOptions& options) {
  SessionInfo info;
  info.id = ++last_session_;
  info.next_step = options.first_step;
  return info;
}

Result<void> EchoEngine::submit(const StepRequest& request, StepSink& sink) {
  hand_over({request.sequence, {request.events.begin(), request.events.end()}, &sink, nullptr});
  return {};
}

Result<void> EchoEngine::submit(const WindowRequest& request, WindowSink& sink) {
  hand_over({0, {request.events.begin(), request.events.end()}, nullptr, &sink});
  return {};
}

void EchoEngine::hand_over(Job job) {
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(job));
  }
  changed_.notify_one();
}

void EchoEngine::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return stopping_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    if (job.step != nullptr) {
      StepAnswer answer;
      answer.sequence = job.sequence;
      answer.behavior = behavior_;
      job.step->on_step(answer);
    } else {
      WindowAnswer answer;
      answer.behavior = behavior_;
      job.window->on_window(answer);
    }
    lock.lock();
  }
}

}  // namespace cortex
