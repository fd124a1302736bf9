#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "core/clock.h"
#include "load_histogram.h"
#include "load_port.h"

namespace cortex {

/// A request that waits for its reply.
struct LoadFlight {
  std::int64_t sequence = 0;
  int window = 0;
  TimeNs due = 0;   ///< when it was to be sent
  TimeNs sent = 0;  ///< when it was
  bool counts = true;
};

inline TimeNs nanoseconds(double seconds) { return static_cast<TimeNs>(seconds * 1e9); }

/// How long a load sends, and when it is over.
struct LoadTime {
  double seconds = 0;
  TimeNs counts_from = 0;  ///< what is due before is sent but not counted
  double drain_s = 0;      ///< the longest wait after `seconds` for what is outstanding
};

/// What came of the requests of one run. A latency counts from when a request was due, so that a
/// server which holds the generator up does not hide what it would have cost.
struct LoadTally {
  std::int64_t offered = 0;
  std::int64_t answered = 0;       ///< with an output
  std::int64_t in_time = 0;        ///< of these, by our clock, from when they were due
  std::int64_t marked_late = 0;    ///< of these, by the server
  std::int64_t answered_late = 0;  ///< of these: past the deadline by the server's own clock
  std::int64_t withheld = 0;       ///< computed, not handed over
  std::int64_t lost = 0;           ///< no reply: the connection or session ended
  std::int64_t unanswered = 0;     ///< no reply yet when the load was over
  std::map<std::string, std::int64_t> errors;        ///< by code
  std::map<std::string, std::string> error_example;  ///< the first message of a code
  LoadHistogram latency;                             ///< of answers, from due to in hand
  LoadHistogram from_sent;                           ///< of answers, from sent to in hand
  LoadHistogram server;                              ///< of answers, as the server says
  LoadHistogram lag;                                 ///< of all requests, from due to sent
  TimeNs deadline_ns = kNever;

  void take(const LoadFlight& flight, const LoadReply& reply, TimeNs now) {
    if (!flight.counts) return;
    if (!reply.error.empty()) {
      ++errors[reply.error];
      error_example.emplace(reply.error, reply.message);
      return;
    }
    if (reply.behavior.empty()) {
      ++withheld;
      return;
    }
    ++answered;
    if (now - flight.due <= deadline_ns) ++in_time;
    if (reply.status == StepStatus::late) ++marked_late;
    const auto server_ns = static_cast<TimeNs>(reply.latency_ms * 1e6);
    if (server_ns > deadline_ns) ++answered_late;
    latency.record(now - flight.due);
    from_sent.record(now - flight.sent);
    server.record(server_ns);
  }
  /// Another generator's, of the same time.
  void add(const LoadTally& other) {
    offered += other.offered;
    answered += other.answered;
    in_time += other.in_time;
    marked_late += other.marked_late;
    answered_late += other.answered_late;
    withheld += other.withheld;
    lost += other.lost;
    unanswered += other.unanswered;
    for (const auto& [code, count] : other.errors) errors[code] += count;
    error_example.insert(other.error_example.begin(), other.error_example.end());
    latency.add(other.latency);
    from_sent.add(other.from_sent);
    server.add(other.server);
    lag.add(other.lag);
  }
  void sent(const LoadFlight& flight) {
    if (!flight.counts) return;
    ++offered;
    lag.record(flight.sent - flight.due);
  }
};

}  // namespace cortex
