#pragma once

#include <cortex/client.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// A stream that outlives its server. When the connection or the session is lost, the client opens
/// another, sends the last steps that answers depend on again, at full speed, and goes on: from
/// there the answers have the bits of an uninterrupted session.
///
///     auto session = cortex::LiveSession::open("http://127.0.0.1:8080");
///     for (std::int64_t n = 0; running; ++n) {
///       auto answer = (*session)->step(n, events_of(n));
///       if (!answer) return fail(answer.error());             // our fault: bad events
///       if (answer->is_lost()) hold(answer->error->message);  // the step has no answer
///       else if (!answer->behavior.empty()) move(answer->behavior);
///     }
///     report((*session)->lost());
namespace cortex {

struct LiveOptions {
  /// Each attempt to connect may take connect_timeout_s: an unreachable host costs a step as much.
  ClientOptions client = {.connect_timeout_s = 1, .format = FrameFormat::binary};
  OpenOptions open = {};
  /// How long one step may take to find a server again; then it is lost and the next step tries.
  /// 0: one attempt.
  double reconnect_s = 0;
};

struct LiveAnswer {
  StreamAnswer answer = {};
  /// Why the step has no answer and never will: the connection or the session was lost, or no
  /// server was found that takes the stream. Its events are kept for the steps to come.
  std::optional<Error> error = {};
  /// Steps that were sent again just before this one, into a new session; 0: it went on.
  std::int64_t replayed_steps = 0;

  bool is_lost() const { return error.has_value(); }
};

/// Steps first to last, both included.
struct StepRange {
  std::int64_t first = 0;
  std::int64_t last = 0;

  friend bool operator==(const StepRange&, const StepRange&) = default;
};

struct LiveTotals {
  std::int64_t decoded = 0;  ///< steps answered, late and refused ones included
  std::int64_t lost = 0;
  std::int64_t resumed = 0;         ///< times that a new session took over
  std::int64_t replayed_steps = 0;  ///< steps sent again for that
};

/// One thread at a time.
class LiveSession {
 public:
  /// The first server must be there: unavailable where it is not, its own error where it refuses.
  /// unsupported: a window model, which has no streams.
  static Result<std::unique_ptr<LiveSession>> open(const std::string& url,
                                                   const LiveOptions& options = {});
  virtual ~LiveSession() = default;

  /// As the first session said. Another model (by digest) never takes over.
  virtual const StreamInfo& info() const = 0;
  virtual std::int64_t next_step() const = 0;

  /// Sends step `sequence` and waits for its answer; `gap` silent steps come before it. An error
  /// (out_of_order, invalid_argument, too_large) is the caller's and takes nothing: the step may be
  /// sent again. Takes as long as ClientOptions::timeout_s where a server hangs, and, where one was
  /// found again, the time of replaying up to context_steps steps.
  virtual Result<LiveAnswer> step(std::int64_t sequence, std::span<const Event> events,
                                  std::int64_t gap = 0) = 0;

  /// The steps that have no answer, in order, as few ranges as can be.
  virtual std::span<const StepRange> lost() const = 0;
  virtual LiveTotals totals() const = 0;

  /// Ends the server's session, if one is open.
  virtual void close() = 0;
};

}  // namespace cortex
