#pragma once

#include <memory>
#include <unordered_set>
#include <vector>

#include "core/clock.h"
#include "serve/router.h"
#include "serve/serve_state.h"

namespace cortex {

class Connection;

/// What a connection needs of its server.
struct ConnectionHost {
  ServeState& state;
  Router& router;
  std::unordered_set<Connection*> all;
  std::function<void()> on_empty;  ///< the last connection has gone

  std::vector<std::shared_ptr<Connection>> snapshot() const;
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  explicit Connection(ConnectionHost& host) : host_(host) {
    host_.all.insert(this);
    host_.state.connections = static_cast<int>(host_.all.size());
  }
  virtual ~Connection() {
    host_.all.erase(this);
    host_.state.connections = static_cast<int>(host_.all.size());
    if (host_.all.empty() && host_.on_empty) host_.on_empty();
  }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Called a few times a second: gives up on a peer that takes too long.
  virtual void check(TimeNs now) = 0;
  /// Finish what was accepted, then close.
  virtual void drain() = 0;
  /// Close now.
  virtual void abort() = 0;

 protected:
  template <class Derived>
  std::shared_ptr<Derived> self() {
    return std::static_pointer_cast<Derived>(shared_from_this());
  }
  static TimeNs now() { return RealClock::instance().now(); }
  static TimeNs in_seconds(double s) { return now() + static_cast<TimeNs>(s * 1e9); }

  ConnectionHost& host_;
};

inline std::vector<std::shared_ptr<Connection>> ConnectionHost::snapshot() const {
  std::vector<std::shared_ptr<Connection>> connections;
  connections.reserve(all.size());
  for (Connection* c : all)
    if (auto alive = c->weak_from_this().lock()) connections.push_back(std::move(alive));
  return connections;
}

}  // namespace cortex
