#include "load_sessions.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace cortex {
namespace {

TimeNs now() { return RealClock::instance().now(); }
constexpr TimeNs kLeadIn = 2'000'000;
constexpr int kSendsATurn = 64;

}  // namespace

SessionLoad::SessionLoad(LoadPoller& poller, std::vector<std::unique_ptr<LoadPort>> ports,
                         LoadEvents& events, Share share, TimeNs period_ns, int outputs,
                         bool keeps_outputs)
    : poller_(poller),
      events_(events),
      share_(share),
      period_ns_(period_ns),
      outputs_(static_cast<std::size_t>(outputs)),
      keeps_outputs_(keeps_outputs),
      records_(ports.size()) {
  for (auto& port : ports) {
    const int session = sessions();
    port->on_reply = [this, session](const LoadReply& reply) { take(session, reply); };
    port->on_lost = [this, session](const std::string& why) { lose(session, why); };
    sessions_.push_back({.port = std::move(port)});
  }
}

void SessionLoad::run(const LoadTime& time, LoadTally& tally) {
  tally_ = &tally;
  counts_from_ = time.counts_from;
  const TimeNs start = now() + kLeadIn;
  ends_ = start + nanoseconds(time.seconds);
  std::priority_queue<Due, std::vector<Due>, std::greater<>> due;
  for (int s = 0; s < sessions(); ++s) {
    // Sessions do not beat together.
    const TimeNs phase = period_ns_ * (share_.first + s) / std::max(share_.all, 1);
    if (period_ns_ > 0)
      due.push({start + phase, s});
    else
      send(s, now(), now());
  }
  // What fell due while this thread stood still is sent late rather than left out.
  const auto are_due = [&] { return !due.empty() && due.top().at < ends_; };
  while ((now() < ends_ || are_due()) && lost_sessions_ < sessions()) {
    // Answers are taken in between: one that is not holds the place of a step that is due.
    for (int i = 0; i < kSendsATurn && !due.empty() && due.top().at <= now(); ++i) {
      const Due d = due.top();
      due.pop();
      if (d.at >= ends_ || sessions_[static_cast<std::size_t>(d.session)].is_over) continue;
      send(d.session, d.at, now());
      due.push({d.at + period_ns_, d.session});
    }
    poller_.wait(due.empty() ? ends_ : std::min(ends_, due.top().at));
  }
  const TimeNs patience = now() + nanoseconds(time.drain_s);
  while (outstanding_ > 0 && now() < patience) poller_.wait(patience);
  for (Session& s : sessions_) {
    if (s.flights.empty()) continue;
    for (const LoadFlight& flight : std::exchange(s.flights, {}))
      if (flight.counts) ++tally.unanswered;
    s.is_over = true;
  }
  outstanding_ = 0;
  tally_ = nullptr;
}

void SessionLoad::send(int session, TimeNs due, TimeNs at) {
  Session& s = sessions_[static_cast<std::size_t>(session)];
  const LoadFlight flight{
      .sequence = s.next, .due = due, .sent = at, .counts = due >= counts_from_};
  s.flights.push_back(flight);
  ++outstanding_;
  tally_->sent(flight);
  s.port->send({.sequence = s.next, .events = events_.step(share_.first + session, s.next)});
  ++s.next;
}

void SessionLoad::take(int session, const LoadReply& reply) {
  Session& s = sessions_[static_cast<std::size_t>(session)];
  if (s.is_over) return;
  if (s.flights.empty()) return lose(session, "a reply to nothing: " + reply.error);
  const LoadFlight flight = s.flights.front();
  s.flights.pop_front();
  --outstanding_;
  const TimeNs at = now();
  if (tally_ != nullptr) tally_->take(flight, reply, at);
  // A step that was not taken ends the stream: whatever comes after it would be out of order.
  if (!reply.error.empty()) return lose(session, reply.error + ": " + reply.message);
  SessionRecord& record = records_[static_cast<std::size_t>(session)];
  if (keeps_outputs_) {
    const std::size_t end = record.outputs.size();
    record.outputs.resize(end + outputs_, std::numeric_limits<float>::quiet_NaN());
    if (reply.behavior.size() == outputs_)
      std::copy(reply.behavior.begin(), reply.behavior.end(),
                record.outputs.begin() + static_cast<std::ptrdiff_t>(end));
  }
  ++record.steps_;
  if (period_ns_ == 0 && at < ends_ && tally_ != nullptr) send(session, at, at);
}

void SessionLoad::lose(int session, const std::string& why) {
  Session& s = sessions_[static_cast<std::size_t>(session)];
  for (const LoadFlight& flight : s.flights)
    if (tally_ != nullptr && flight.counts) ++tally_->lost;
  outstanding_ -= s.flights.size();
  s.flights.clear();
  if (std::exchange(s.is_over, true)) return;
  ++lost_sessions_;
  records_[static_cast<std::size_t>(session)].lost = why;
}

void SessionLoad::close() {
  for (Session& s : sessions_)
    if (!s.is_over) s.port->close();
}

}  // namespace cortex
