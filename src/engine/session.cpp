#include "engine/session.h"

#include <algorithm>
#include <span>

#include "core/memory.h"

namespace cortex {

Session::Session(SessionId session_id, const ModelConfig& config,
                 const SessionOptions& session_options, int max_queued, std::size_t max_step_events)
    : id(session_id),
      options(session_options),
      expected(session_options.first_step),
      store(static_cast<std::size_t>(max_queued + config.receptive_steps - 2), max_step_events),
      done(session_options.first_step - 1),
      ring(static_cast<std::size_t>(max_queued)),
      state(session_options.first_step, config.receptive_steps, config.window_steps) {}

void Session::prefetch() const { prefetch_lines(&queued, &latency); }

void Session::prefetch_job() const {
  const StreamJob* const job = &ring[head];
  prefetch_lines(job, job + 1);
  prefetch_lines(pages.data(), pages.data() + pages.size());
  state.prefetch();
}

void Session::prefetch_events() const {
  const auto& events = ring[head].events;
  prefetch_lines(events.data(), events.data() + events.size());
  for (int i = 0; i < state.recent_steps(); ++i)
    prefetch_lines(state.recent(i).data(), state.recent(i).data() + state.recent(i).size());
}

void Session::push_back() {
  tail = (tail + 1) % ring.size();
  queued.fetch_add(1);
}

void Session::pop_front() {
  done.store(ring[head].last_step, std::memory_order_release);
  head = (head + 1) % ring.size();
  queued.fetch_sub(1, std::memory_order_release);
}

const StreamJob& Session::pop_back() {
  tail = (tail + ring.size() - 1) % ring.size();
  queued.fetch_sub(1, std::memory_order_release);
  return ring[tail];
}

StepOffer Session::offer() const {
  const StreamJob& job = ring[head];
  return {.key = key_of(*this),
          .arrived = job.submitted_ns,
          .deadline = job.deadline_ns,
          .keys = static_cast<std::int32_t>(job.events.size()),
          .forwards = job.forwards};
}

void Session::advance(int bins_per_step, int context_steps) {
  StreamJob& job = front();
  // No answer depends on more than `context_steps` steps: a longer silence need not be run, and
  // what is run has the same bits as if it had been.
  const std::int64_t needed = job.last_step - context_steps + 1;
  if (state.next_step() < needed) state.restart(needed);
  const std::int64_t step = state.next_step();
  const auto bin_of = [&](std::size_t i) { return job.events[i].bin; };
  while (job.cursor < job.events.size() && bin_of(job.cursor) < step * bins_per_step) ++job.cursor;
  std::size_t end = job.cursor;
  while (end < job.events.size() && bin_of(end) < (step + 1) * bins_per_step) ++end;
  state.push(job.events.subspan(job.cursor, end - job.cursor));
  job.cursor = end;
}

void Session::append_to(StreamBatch& batch, int bins_per_step) const {
  const std::int64_t end_bin = (state.step() + 1) * bins_per_step;
  const int recent = state.recent_steps();
  for (int i = 0; i < recent; ++i) batch.add_events(state.recent(i), end_bin);
  batch.add_step(state.step(), pages, state.slot(), state.live_steps());
}

}  // namespace cortex
