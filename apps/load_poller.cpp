#include "load_poller.h"

#include <cortex/result.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>

namespace cortex {

LoadPoller::LoadPoller() : fd_(::epoll_create1(EPOLL_CLOEXEC)) {
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
  const TimeNs left = std::max<TimeNs>(until - RealClock::instance().now(), 0);
  const timespec patience{left / 1'000'000'000, left % 1'000'000'000};
  std::array<epoll_event, 64> events;
  const int ready =
      ::epoll_pwait2(fd_, events.data(), static_cast<int>(events.size()), &patience, nullptr);
  for (int i = 0; i < ready; ++i) {
    auto* const client = static_cast<Client*>(events[static_cast<std::size_t>(i)].data.ptr);
    const std::uint32_t what = events[static_cast<std::size_t>(i)].events;
    if ((what & EPOLLOUT) != 0) client->on_writable();
    if ((what & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0) client->on_readable();
  }
}

}  // namespace cortex
