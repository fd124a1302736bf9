#pragma once

#include <cortex/engine.h>

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/memory.h"
#include "load_options.h"
#include "load_poller.h"
#include "load_port.h"
#include "serve/mailbox.h"

namespace cortex {

/// Answers on their way from the compute thread to the poller's.
class EngineMail final : public LoadPoller::Client {
 public:
  explicit EngineMail(LoadPoller& poller) { poller.add(mailbox_.fd(), *this); }
  void on_readable() override { mailbox_.deliver_all(); }
  Mailbox& mailbox() { return mailbox_; }

 private:
  Mailbox mailbox_;
};

/// A session, or windows one at a time, of an engine in this process.
class EnginePort final : public LoadPort {
 public:
  /// `session` 0: windows. `slots`: requests that the engine takes at once; more wait here.
  EnginePort(Engine& engine, EngineMail& mail, SessionId session, int slots,
             const LoadOptions& options);

  void send(const LoadRequest& request) override;
  void close() override;

 private:
  /// What an answer touches on the compute thread comes first.
  struct alignas(kCacheLine) Slot final : StepSink, WindowSink, Mailbox::Item {
    void on_step(const StepAnswer& answer) noexcept override;
    void on_window(const WindowAnswer& answer) noexcept override;
    void deliver() override { owner->delivered(*this); }
    void post(const Error* failed, const BatchInfo& batch) noexcept;

    Mailbox* mailbox = nullptr;
    std::int64_t latency_ns = 0;
    std::vector<float> behavior;
    StepStatus status = StepStatus::fresh;
    EnginePort* owner = nullptr;
    std::int64_t sequence = 0;
    std::optional<Error> error;
  };
  struct Waiting {
    std::int64_t sequence = 0;
    std::vector<Event> events;
  };

  void submit(Slot& slot, std::int64_t sequence, std::span<const Event> events);
  void delivered(Slot& slot);
  std::int64_t deadline() const;

  Engine& engine_;
  SessionId session_;
  double deadline_ms_;
  bool best_effort_;
  std::vector<std::unique_ptr<Slot>> slots_;
  std::vector<Slot*> free_;
  std::deque<Waiting> waiting_;
};

}  // namespace cortex
