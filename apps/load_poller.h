#pragma once

#include <cstdint>

#include "core/clock.h"

namespace cortex {

/// Waits for many descriptors on one thread.
class LoadPoller {
 public:
  class Client {
   public:
    virtual ~Client() = default;
    virtual void on_readable() = 0;
    virtual void on_writable() {}
  };

  /// `poll_ns`: how long wait() looks again and again before it sleeps.
  explicit LoadPoller(TimeNs poll_ns = 0);
  ~LoadPoller();
  LoadPoller(const LoadPoller&) = delete;
  LoadPoller& operator=(const LoadPoller&) = delete;

  void add(int fd, Client& client);
  /// Whether on_writable() is wanted as well.
  void watch_writable(int fd, Client& client, bool wanted);
  void remove(int fd);
  /// Calls who is ready; returns after that, or at `until`.
  void wait(TimeNs until);

 private:
  TimeNs poll_ns_;
  int fd_ = -1;
};

}  // namespace cortex
