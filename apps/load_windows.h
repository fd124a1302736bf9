#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "load_events.h"
#include "load_poller.h"
#include "load_port.h"
#include "load_tally.h"

namespace cortex {

/// How an answer to one of LoadEvents's windows differs from the one expected.
struct WindowCheck {
  std::int64_t compared = 0;
  std::int64_t exact = 0;       ///< the same bits
  double worst = 0;             ///< relative to the largest expected output
  std::vector<float> expected;  ///< [kWindows, outputs]; empty: nothing is compared
  double scale = 0;             ///< the largest expected output
};

/// Stateless windows over a fixed number of connections, one in flight on each. They take turns: a
/// server closes those that it does not hear of. A window that is due while all are busy waits for
/// a connection, and that counts.
class WindowLoad {
 public:
  WindowLoad(LoadPoller& poller, std::vector<std::unique_ptr<LoadPort>> ports, LoadEvents& events,
             const LoadOptions& options, std::vector<TimeNs> trace);

  /// As SessionLoad::run().
  void run(const LoadTime& time, LoadTally& tally);
  void close();

  int lost_connections() const { return lost_connections_; }
  const std::string& lost_because() const { return lost_because_; }
  WindowCheck& check() { return check_; }

 private:
  struct Line {
    std::unique_ptr<LoadPort> port;
    LoadFlight flight = {};
    bool is_busy = false;
    bool is_over = false;  // lost, or given up
  };

  /// When the next window is due, after `last`; kNever: no more.
  TimeNs next_due(TimeNs start, TimeNs last);
  void send_waiting();
  void send(int line, TimeNs due);
  void take(int line, const LoadReply& reply);
  void lose(int line, const std::string& why);
  void compare(int window, std::span<const float> behavior);

  LoadPoller& poller_;
  LoadEvents& events_;
  Arrivals arrivals_;
  double rate_hz_;
  std::vector<TimeNs> trace_;
  std::size_t trace_at_ = 0;
  std::mt19937_64 random_;
  std::vector<Line> lines_;
  std::deque<int> free_;
  std::deque<TimeNs> waiting_;  // due, no line free
  std::int64_t next_window_ = 0;
  int busy_ = 0;
  int lost_connections_ = 0;
  std::string lost_because_;
  WindowCheck check_;

  // Of the present run.
  LoadTally* tally_ = nullptr;
  TimeNs counts_from_ = 0;
  TimeNs ends_ = 0;
};

}  // namespace cortex
