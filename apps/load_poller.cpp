#include "load_poller.h"

#include <cortex/result.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace cortex {

LoadPoller::LoadPoller(TimeNs poll_ns) : poll_ns_(poll_ns), fd_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (fd_ < 0) throw Exception{{ErrorCode::io_error, "cannot create an epoll descriptor", ""}};
}

LoadPoller::~LoadPoller() { ::close(fd_); }

void LoadPoller::add(int fd, Client& client) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.ptr = &client;
  if (::epoll_ctl(fd_, EPOLL_CTL_ADD, fd, &event) != 0)
    throw Exception{{ErrorCode::io_error, "cannot wait for another descriptor", ""}};
}

void LoadPoller::watch_writable(int fd, Client& client, bool wanted) {
  epoll_event event{};
  event.events = wanted ? EPOLLIN | EPOLLOUT : EPOLLIN;
  event.data.ptr = &client;
  ::epoll_ctl(fd_, EPOLL_CTL_MOD, fd, &event);
}

void LoadPoller::remove(int fd) { ::epoll_ctl(fd_, EPOLL_CTL_DEL, fd, nullptr); }

void LoadPoller::wait(TimeNs until) {
  std::array<epoll_event, 64> events;
  const auto look = [&](TimeNs patience_ns) {
    const timespec patience{patience_ns / 1'000'000'000, patience_ns % 1'000'000'000};
    return ::epoll_pwait2(fd_, events.data(), static_cast<int>(events.size()), &patience, nullptr);
  };
  const Clock& clock = RealClock::instance();
  const TimeNs polls_until = std::min(until, clock.now() + poll_ns_);
  int ready = 0;
  while (ready == 0 && clock.now() < polls_until) ready = look(0);
  if (ready == 0) ready = look(std::max<TimeNs>(until - clock.now(), 0));
  for (int i = 0; i < ready; ++i) {
    auto* const client = static_cast<Client*>(events[static_cast<std::size_t>(i)].data.ptr);
    const std::uint32_t what = events[static_cast<std::size_t>(i)].events;
    if ((what & EPOLLOUT) != 0) client->on_writable();
    if ((what & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) client->on_readable();
  }
}

}  // namespace cortex
