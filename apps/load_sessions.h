#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <vector>

#include "load_events.h"
#include "load_poller.h"
#include "load_port.h"
#include "load_tally.h"

namespace cortex {

/// What one session was answered, to be compared with its replay.
struct SessionRecord {
  std::vector<float> outputs;  ///< [steps, outputs], NaN where an output was withheld
  std::string lost;            ///< why it ended early; empty where it did not
  std::int64_t steps() const { return steps_; }
  std::int64_t steps_ = 0;  ///< answered or withheld, from step 0
};

/// Sessions that send a step each at the beat of a clock, whatever the answers do; or, unpaced, as
/// soon as the step before it is answered.
class SessionLoad {
 public:
  /// Which sessions of a load these are: `first` to `first` + ports of `all`.
  struct Share {
    int first = 0;
    int all = 0;
  };

  /// `period_ns` 0: unpaced. Outputs are kept if `keeps_outputs`.
  SessionLoad(LoadPoller& poller, std::vector<std::unique_ptr<LoadPort>> ports, LoadEvents& events,
              Share share, TimeNs period_ns, int outputs, bool keeps_outputs);

  /// Sends for that time, then waits for what is outstanding. What has no reply then is unanswered,
  /// and its session sends no more.
  void run(const LoadTime& time, LoadTally& tally);
  /// Ends the sessions in good order.
  void close();

  int sessions() const { return static_cast<int>(sessions_.size()); }
  int lost_sessions() const { return lost_sessions_; }
  const std::vector<SessionRecord>& records() const { return records_; }

 private:
  struct Session {
    std::unique_ptr<LoadPort> port;
    std::int64_t next = 0;
    std::deque<LoadFlight> flights = {};
    bool is_over = false;  // lost, or given up
  };
  struct Due {
    TimeNs at = 0;
    int session = 0;
    bool operator>(const Due& other) const { return at > other.at; }
  };

  void send(int session, TimeNs due, TimeNs now);
  void take(int session, const LoadReply& reply);
  void lose(int session, const std::string& why);
  std::size_t outstanding() const { return outstanding_; }

  LoadPoller& poller_;
  LoadEvents& events_;
  Share share_;
  TimeNs period_ns_;
  std::size_t outputs_;
  bool keeps_outputs_;
  std::vector<Session> sessions_;
  std::vector<SessionRecord> records_;
  int lost_sessions_ = 0;
  std::size_t outstanding_ = 0;

  // Of the present run.
  LoadTally* tally_ = nullptr;
  TimeNs counts_from_ = 0;
  TimeNs ends_ = 0;
};

}  // namespace cortex
