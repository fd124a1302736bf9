#include "load_verify.h"

#include <cortex/engine.h>
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <semaphore>

namespace cortex {
namespace {

/// Streams that run at once, and steps of each that are queued at once.
constexpr int kAtOnce = 16;
constexpr int kAhead = 64;

/// The answers of one stream's chunk of steps.
class ChunkSink final : public StepSink {
 public:
  ChunkSink(std::counting_semaphore<>& answered, std::size_t outputs)
      : answered_(answered), values_(outputs * kAhead), outputs_(outputs) {}

  void begin(std::int64_t first_step) { first_step_ = first_step; }
  void on_step(const StepAnswer& answer) noexcept override {
    const auto row = static_cast<std::size_t>(answer.sequence - first_step_) * outputs_;
    if (answer.error == nullptr)
      std::copy(answer.behavior.begin(), answer.behavior.end(),
                values_.begin() + static_cast<std::ptrdiff_t>(row));
    else
      failed_ = true;
    answered_.release();
  }
  std::span<const float> row(std::int64_t step) const {
    return std::span(values_).subspan(static_cast<std::size_t>(step - first_step_) * outputs_,
                                      outputs_);
  }
  bool failed() const { return failed_; }

 private:
  std::counting_semaphore<>& answered_;
  std::vector<float> values_;
  std::size_t outputs_;
  std::int64_t first_step_ = 0;
  bool failed_ = false;
};

std::unique_ptr<Engine> load_engine(const std::string& model, const LoadFacts& facts) {
  EngineOptions options;
  options.model_path = model;
  options.device = "cpu";
  options.max_sessions = kAtOnce;
  options.max_batch = kAtOnce;
  options.max_queued_steps = kAhead;
  auto engine = Engine::create(options).value_or_throw();
  if (engine->model().digest != facts.digest)
    throw Exception{{ErrorCode::invalid_argument,
                     fmt::format("{} is not the model that was loaded: its digest is {}, not {}",
                                 model, engine->model().digest, facts.digest),
                     "verify"}};
  return engine;
}

/// A stream on its way through the replay.
struct Replay {
  int session = 0;
  SessionId id = 0;
  std::int64_t next = 0;
  std::int64_t chunk = 0;
  std::unique_ptr<ChunkSink> sink;
};

class Verifier {
 public:
  Verifier(Engine& engine, LoadEvents& events, const std::vector<SessionRecord>& records)
      : engine_(engine),
        events_(events),
        records_(records),
        outputs_(engine.model().outputs.size()) {}

  VerifyReport run() {
    int next = 0;
    std::vector<Replay> live;
    for (;;) {
      for (; live.size() < kAtOnce && next < static_cast<int>(records_.size()); ++next)
        if (record(next).steps() > 0) live.push_back(start(next));
      if (live.empty()) return report_;
      for (Replay& r : live) submit_chunk(r);
      for (const Replay& r : live)
        for (std::int64_t i = 0; i < r.chunk; ++i) answered_.acquire();
      for (Replay& r : live) compare_chunk(r);
      std::erase_if(live, [this](const Replay& r) {
        if (r.next < record(r.session).steps()) return false;
        (void)engine_.close_session(r.id);
        return true;
      });
    }
  }

 private:
  const SessionRecord& record(int session) const {
    return records_[static_cast<std::size_t>(session)];
  }

  Replay start(int session) {
    ++report_.streams;
    // Nothing is reserved: the replay takes the time that it takes.
    SessionOptions options;
    options.best_effort = true;
    return {.session = session,
            .id = engine_.open_session(options).value_or_throw().id,
            .sink = std::make_unique<ChunkSink>(answered_, outputs_)};
  }

  void submit_chunk(Replay& r) {
    r.chunk = std::min<std::int64_t>(kAhead, record(r.session).steps() - r.next);
    r.sink->begin(r.next);
    for (std::int64_t i = 0; i < r.chunk; ++i)
      engine_
          .submit(StepRequest{.session = r.id,
                              .sequence = r.next + i,
                              .events = events_.step(r.session, r.next + i),
                              .best_effort = true},
                  *r.sink)
          .value_or_throw();
  }

  void compare_chunk(Replay& r) {
    if (r.sink->failed())
      throw Exception{{ErrorCode::internal, "the replay itself failed", "verify"}};
    for (std::int64_t i = 0; i < r.chunk; ++i) {
      const std::int64_t step = r.next + i;
      const auto served = std::span(record(r.session).outputs)
                              .subspan(static_cast<std::size_t>(step) * outputs_, outputs_);
      if (std::isnan(served[0])) {
        ++report_.withheld;
        continue;
      }
      ++report_.steps;
      const auto expected = r.sink->row(step);
      if (std::memcmp(expected.data(), served.data(), expected.size_bytes()) == 0) continue;
      if (report_.wrong++ == 0)
        report_.first_wrong = fmt::format("session {}, step {}: served {}, replayed {}", r.session,
                                          step, served, expected);
    }
    r.next += r.chunk;
  }

  Engine& engine_;
  LoadEvents& events_;
  const std::vector<SessionRecord>& records_;
  std::size_t outputs_;
  std::counting_semaphore<> answered_{0};
  VerifyReport report_;
};

}  // namespace

VerifyReport verify_sessions(const std::string& model, const LoadFacts& facts, LoadEvents& events,
                             const std::vector<SessionRecord>& records) {
  const auto engine = load_engine(model, facts);
  return Verifier(*engine, events, records).run();
}

std::vector<float> expected_windows(const std::string& model, const LoadFacts& facts,
                                    LoadEvents& events) {
  const auto engine = load_engine(model, facts);
  std::vector<float> expected;
  for (int w = 0; w < LoadEvents::kWindows; ++w) {
    const auto answer = engine->decode({.events = events.window(w)}).value_or_throw();
    expected.insert(expected.end(), answer.behavior.begin(), answer.behavior.end());
  }
  return expected;
}

}  // namespace cortex
