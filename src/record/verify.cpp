#include "record/verify.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace cortex::record {
namespace {

/// One replay at a time; begun anew behind steps that are missing.
class Replay {
 public:
  Replay(const FlightLog& log, const RecordedSession& session, Engine& engine)
      : log_(log), session_(session), engine_(engine) {}
  ~Replay() { end(); }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  Result<void> begin(std::int64_t first_step) {
    end();
    SessionOptions options = session_.options;
    options.first_step = first_step;
    options.best_effort = true;
    auto opened = engine_.open_session(options);
    if (!opened) return opened.error();
    open_ = opened->id;
    next_ = first_step;
    // What lies before a first step that is not the session's own is not known.
    known_from_ = first_step == session_.options.first_step
                      ? first_step
                      : first_step + log_.model.context_steps - 1;
    return {};
  }

  /// Counts the step in `verdict`.
  Result<void> run(const RecordedStep& step, SessionVerdict& verdict) {
    if (!open_ || step.sequence - step.gap != next_)
      if (auto ok = begin(step.sequence - step.gap); !ok) return ok;
    const std::vector<Event> events = events_of(step);
    const auto answer = engine_.step({.session = *open_,
                                      .sequence = step.sequence,
                                      .gap = step.gap,
                                      .events = events,
                                      .best_effort = true});
    next_ = step.sequence + 1;
    // An output that is not finite is an error of its step alone, then as now.
    const bool not_finite = !answer && answer.error().code == ErrorCode::internal;
    if (!answer && !not_finite)
      return Error{ErrorCode::corrupt_data,
                   fmt::format("step {} of session {} cannot be replayed: {}", step.sequence,
                               session_.id, answer.error().message),
                   ""};
    if (!step.answered) {
      ++verdict.unanswered;
    } else if (step.sequence < known_from_) {
      ++verdict.unknown;
    } else if (step.error == ErrorCode::internal || not_finite) {
      if (step.error == ErrorCode::internal && not_finite)
        ++verdict.equal;
      else
        verdict.difference = {step.sequence, not_finite ? "an output is not finite now"
                                                        : "an output was not finite then"};
    } else if (step.outputs.empty()) {
      ++verdict.withheld;
    } else {
      compare(step, answer->behavior, verdict);
    }
    return {};
  }

 private:
  void compare(const RecordedStep& step, const std::vector<float>& now,
               SessionVerdict& verdict) const {
    const std::vector<float> then = outputs_of(step);
    if (then.size() != now.size()) {
      verdict.difference = {step.sequence,
                            fmt::format("{} outputs then, {} now", then.size(), now.size())};
      return;
    }
    for (std::size_t i = 0; i < then.size(); ++i) {
      if (std::memcmp(&then[i], &now[i], sizeof(float)) == 0) continue;
      verdict.difference = {
          step.sequence,
          fmt::format("{} was {}, is {}", engine_.model().outputs[i].name, then[i], now[i])};
      return;
    }
    ++verdict.equal;
  }

  void end() {
    if (open_) (void)engine_.close_session(*std::exchange(open_, std::nullopt));
  }

  const FlightLog& log_;
  const RecordedSession& session_;
  Engine& engine_;
  std::optional<SessionId> open_;
  std::int64_t next_ = 0;
  std::int64_t known_from_ = 0;
};

}  // namespace

Result<SessionVerdict> verify(const FlightLog& log, const RecordedSession& session,
                              Engine& engine) {
  SessionVerdict verdict{.session = session.id,
                         .steps = static_cast<std::int64_t>(session.steps.size())};
  Replay replay(log, session, engine);
  if (auto ok = replay.begin(session.options.first_step); !ok) return ok.error();
  for (const RecordedStep& step : session.steps) {
    // The session was lost or closed here: whether the step was computed is not known.
    if (step.error && *step.error != ErrorCode::internal) {
      verdict.unanswered += &session.steps.back() - &step + 1;
      break;
    }
    if (auto ok = replay.run(step, verdict); !ok) return ok.error();
    if (verdict.difference) break;
  }
  return verdict;
}

}  // namespace cortex::record
