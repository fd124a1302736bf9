#include "load_windows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace cortex {
namespace {

TimeNs now() { return RealClock::instance().now(); }
constexpr TimeNs kLeadIn = 2'000'000;

}  // namespace

WindowLoad::WindowLoad(LoadPoller& poller, std::vector<std::unique_ptr<LoadPort>> ports,
                       LoadEvents& events, const LoadOptions& options, std::vector<TimeNs> trace)
    : poller_(poller),
      events_(events),
      arrivals_(options.arrivals),
      rate_hz_(options.rate_hz),
      trace_(std::move(trace)),
      random_(options.seed) {
  for (auto& port : ports) {
    const int line = static_cast<int>(lines_.size());
    port->on_reply = [this, line](const LoadReply& reply) { take(line, reply); };
    port->on_lost = [this, line](const std::string& why) { lose(line, why); };
    lines_.push_back({.port = std::move(port)});
    free_.push_back(line);
  }
}

TimeNs WindowLoad::next_due(TimeNs start, TimeNs last) {
  switch (arrivals_) {
    case Arrivals::clock:
      return last + static_cast<TimeNs>(1e9 / rate_hz_);
    case Arrivals::poisson:
      return last +
             static_cast<TimeNs>(std::exponential_distribution<double>(rate_hz_ * 1e-9)(random_));
    case Arrivals::trace:
      return trace_at_ < trace_.size() ? start + trace_[trace_at_++] : kNever;
    case Arrivals::closed:
      break;
  }
  return kNever;
}

void WindowLoad::run(const LoadTime& time, LoadTally& tally) {
  tally_ = &tally;
  counts_from_ = time.counts_from;
  const TimeNs start = now() + kLeadIn;
  ends_ = start + nanoseconds(time.seconds);
  trace_at_ = 0;
  if (arrivals_ == Arrivals::closed)
    for (const int line : std::exchange(free_, {})) send(line, now());
  TimeNs due = next_due(start, start);
  // What fell due while this thread stood still is sent late rather than left out.
  while ((now() < ends_ || due < ends_) && lost_connections_ < static_cast<int>(lines_.size())) {
    while (due <= now() && due < ends_) {
      waiting_.push_back(due);
      due = next_due(start, due);
    }
    send_waiting();
    poller_.wait(std::min(due, ends_));
  }
  const TimeNs patience = now() + nanoseconds(time.drain_s);
  while ((busy_ > 0 || !waiting_.empty()) && now() < patience &&
         lost_connections_ < static_cast<int>(lines_.size())) {
    send_waiting();
    poller_.wait(patience);
  }
  // Never sent is never answered.
  for (const TimeNs at : std::exchange(waiting_, {}))
    if (at >= counts_from_) {
      ++tally.offered;
      ++tally.unanswered;
    }
  for (Line& l : lines_) {
    if (!std::exchange(l.is_busy, false)) continue;
    --busy_;
    if (l.flight.counts) ++tally.unanswered;
    l.is_over = true;
  }
  tally_ = nullptr;
}

void WindowLoad::send_waiting() {
  while (!waiting_.empty() && !free_.empty()) {
    const int line = free_.front();
    const TimeNs due = waiting_.front();
    free_.pop_front();
    waiting_.pop_front();
    send(line, due);
  }
}

void WindowLoad::send(int line, TimeNs due) {
  Line& l = lines_[static_cast<std::size_t>(line)];
  const int window = static_cast<int>(next_window_++ % LoadEvents::kWindows);
  l.flight = {.sequence = next_window_,
              .window = window,
              .due = due,
              .sent = now(),
              .counts = due >= counts_from_};
  l.is_busy = true;
  ++busy_;
  tally_->sent(l.flight);
  l.port->send({.sequence = l.flight.sequence, .events = events_.window(window), .window = window});
}

void WindowLoad::take(int line, const LoadReply& reply) {
  Line& l = lines_[static_cast<std::size_t>(line)];
  if (l.is_over) return;
  if (!l.is_busy) return lose(line, "a reply to nothing: " + reply.error);
  l.is_busy = false;
  --busy_;
  const TimeNs at = now();
  if (tally_ != nullptr) tally_->take(l.flight, reply, at);
  if (!reply.behavior.empty()) compare(l.flight.window, reply.behavior);
  if (arrivals_ == Arrivals::closed && at < ends_ && tally_ != nullptr)
    send(line, at);
  else
    free_.push_back(line);
}

void WindowLoad::compare(int window, std::span<const float> behavior) {
  if (check_.expected.empty()) return;
  ++check_.compared;
  const auto expected =
      std::span(check_.expected)
          .subspan(static_cast<std::size_t>(window) * behavior.size(), behavior.size());
  if (std::memcmp(expected.data(), behavior.data(), behavior.size_bytes()) == 0) {
    ++check_.exact;
    return;
  }
  for (std::size_t i = 0; i < behavior.size(); ++i) {
    const double error = std::abs(static_cast<double>(behavior[i]) - expected[i]) / check_.scale;
    // Not a number is as wrong as can be.
    check_.worst = std::isfinite(error) ? std::max(check_.worst, error) : HUGE_VAL;
  }
}

void WindowLoad::lose(int line, const std::string& why) {
  Line& l = lines_[static_cast<std::size_t>(line)];
  if (l.is_busy) {
    l.is_busy = false;
    --busy_;
    if (tally_ != nullptr && l.flight.counts) ++tally_->lost;
  }
  if (std::exchange(l.is_over, true)) return;
  std::erase(free_, line);
  ++lost_connections_;
  lost_because_ = why;
}

void WindowLoad::close() {
  for (Line& l : lines_)
    if (!l.is_over) l.port->close();
}

}  // namespace cortex
