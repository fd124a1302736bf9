#include <cortex/live_session.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "client/step_history.h"
#include "core/clock.h"

namespace cortex {
namespace {

constexpr TimeNs kBetweenAttempts = 20'000'000;

/// The step itself is at fault: the server has not taken it and another server would not.
bool is_callers_fault(ErrorCode code) {
  return code == ErrorCode::invalid_argument || code == ErrorCode::too_large ||
         code == ErrorCode::out_of_order;
}

/// The step was taken and its output withheld; the session goes on.
bool is_withheld(const Error& error) {
  return error.code == ErrorCode::internal && error.field == "behavior";
}

Error bad_event(std::size_t index, const char* field, const std::string& what) {
  return {ErrorCode::invalid_argument, fmt::format("events[{}].{} {}", index, field, what),
          fmt::format("events[{}].{}", index, field)};
}

class LiveSessionImpl final : public LiveSession {
 public:
  LiveSessionImpl(std::string url, LiveOptions options)
      : url_(std::move(url)), options_(std::move(options)) {}

  Result<void> start() {
    auto client = StreamClient::connect(url_, options_.client);
    if (!client) return client.error();
    auto info = (*client)->open(options_.open);
    if (!info) return info.error();
    if (info->kind != "stream")
      return Error{ErrorCode::unsupported,
                   fmt::format("{} serves a {} model, which has no streams", url_, info->kind),
                   "model"};
    if (info->context_steps < 1)
      return Error{ErrorCode::unsupported,
                   fmt::format("{} does not say how many steps an answer depends on", url_),
                   "context_steps"};
    info_ = *std::move(info);
    client_ = *std::move(client);
    next_ = info_.next_sequence;
    history_ = StepHistory(next_, info_.context_steps);
    return {};
  }

  const StreamInfo& info() const override { return info_; }
  std::int64_t next_step() const override { return next_; }

  Result<LiveAnswer> step(std::int64_t sequence, std::span<const Event> events,
                          std::int64_t gap) override {
    // Whether a server is there or not, the same steps are taken.
    if (const auto ok = check(sequence, events, gap); !ok) return ok.error();
    const std::int64_t replayed_before = totals_.replayed_steps;
    Result<StreamAnswer> answer = Error{ErrorCode::unavailable, "", ""};
    if (client_) {
      answer = client_->step({.sequence = sequence, .gap = gap, .events = events});
      if (!answer && is_callers_fault(answer.error().code)) return answer.error();
      if (!answer && !is_withheld(answer.error())) client_.reset();
    }
    if (!client_) answer = resume(sequence, events);
    next_ = sequence + 1;
    history_.add(sequence, events);
    LiveAnswer live;
    live.answer.sequence = sequence;
    live.replayed_steps = totals_.replayed_steps - replayed_before;
    if (answer) {
      ++totals_.decoded;
      live.answer = *std::move(answer);
    } else {
      lose(sequence);
      live.error = answer.error();
    }
    return live;
  }

  std::span<const StepRange> lost() const override { return lost_; }
  LiveTotals totals() const override { return totals_; }

  void close() override {
    if (client_) (void)client_->close();
    client_.reset();
  }

 private:
  Result<void> check(std::int64_t sequence, std::span<const Event> events, std::int64_t gap) const {
    if (gap < 0 || sequence != next_ + gap)
      return Error{
          ErrorCode::out_of_order,
          fmt::format("step {} with a gap of {}: the next step is {}", sequence, gap, next_),
          "sequence"};
    if (events.size() > static_cast<std::size_t>(info_.max_events))
      return Error{
          ErrorCode::too_large,
          fmt::format("{} events, at most {} are allowed", events.size(), info_.max_events),
          "events"};
    const std::int64_t first_bin = sequence * info_.bins_per_step;
    const std::int64_t last_bin = first_bin + info_.bins_per_step - 1;
    for (std::size_t i = 0; i < events.size(); ++i) {
      const Event& e = events[i];
      if (e.unit < 0 || e.unit >= info_.units)
        return bad_event(i, "unit",
                         fmt::format("is {}, allowed are 0 to {}", e.unit, info_.units - 1));
      if (e.value < 1) return bad_event(i, "value", fmt::format("is {}, not at least 1", e.value));
      if ((e.bin < first_bin || e.bin > last_bin) && !options_.open.session.drop_out_of_step)
        return bad_event(
            i, "bin",
            fmt::format("is {}, step {} owns bins {} to {}", e.bin, sequence, first_bin, last_bin));
    }
    return {};
  }

  Result<StreamAnswer> resume(std::int64_t sequence, std::span<const Event> events) {
    const TimeNs until =
        RealClock::instance().now() + static_cast<TimeNs>(options_.reconnect_s * 1e9);
    for (;;) {
      auto answer = resume_once(sequence, events);
      if (answer || client_ || RealClock::instance().now() + kBetweenAttempts > until)
        return answer;
      std::this_thread::sleep_for(std::chrono::nanoseconds(kBetweenAttempts));
    }
  }

  /// One attempt; `client_` is set where a session was found that goes on.
  Result<StreamAnswer> resume_once(std::int64_t sequence, std::span<const Event> events) {
    auto client = StreamClient::connect(url_, options_.client);
    if (!client) return client.error();
    OpenOptions to_open = options_.open;
    to_open.session.first_step = history_.first_needed(sequence);
    const auto info = (*client)->open(to_open);
    if (!info) return info.error();
    if (info->digest != info_.digest)
      return Error{ErrorCode::unavailable,
                   fmt::format("{} now serves another model ({}, it was {})", url_, info->digest,
                               info_.digest),
                   "model"};
    const auto expected = replay(**client, *info, sequence);
    if (!expected) return expected.error();
    auto answer =
        (*client)->step({.sequence = sequence, .gap = sequence - *expected, .events = events});
    if (!answer && !is_withheld(answer.error())) return answer.error();
    client_ = *std::move(client);
    ++totals_.resumed;
    return answer;
  }

  /// Sends the steps before `sequence` again, ahead as far as the server takes them; the one that
  /// it expects next.
  Result<std::int64_t> replay(StreamClient& client, const StreamInfo& info, std::int64_t sequence) {
    const auto steps = history_.needed_before(sequence);
    const auto ahead = static_cast<std::size_t>(std::max(1, info.max_queued_steps));
    std::int64_t expected = info.next_sequence;
    std::size_t received = 0;
    for (std::size_t sent = 0; received < steps.size();) {
      if (sent < steps.size() && sent - received < ahead) {
        const StepHistory::Step& s = *steps[sent++];
        const auto ok =
            client.send({.sequence = s.sequence, .gap = s.sequence - expected, .events = s.events});
        if (!ok) return ok.error();
        expected = s.sequence + 1;
        continue;
      }
      const auto answer = client.receive();
      if (!answer && !is_withheld(answer.error())) return answer.error();
      ++received;
      ++totals_.replayed_steps;
    }
    return expected;
  }

  void lose(std::int64_t sequence) {
    ++totals_.lost;
    if (!lost_.empty() && lost_.back().last == sequence - 1)
      lost_.back().last = sequence;
    else
      lost_.push_back({sequence, sequence});
  }

  std::string url_;
  LiveOptions options_;
  StreamInfo info_;
  std::unique_ptr<StreamClient> client_;
  std::int64_t next_ = 0;
  StepHistory history_{0, 1};
  std::vector<StepRange> lost_;
  LiveTotals totals_;
};

}  // namespace

Result<std::unique_ptr<LiveSession>> LiveSession::open(const std::string& url,
                                                       const LiveOptions& options) {
  auto session = std::make_unique<LiveSessionImpl>(url, options);
  if (const auto started = session->start(); !started) return started.error();
  return std::unique_ptr<LiveSession>(std::move(session));
}

}  // namespace cortex
