#pragma once

#include <cortex/engine.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "serve/api_error.h"
#include "serve/serve_state.h"
#include "serve/transport.h"

namespace cortex {

/// One /stream WebSocket: a session on a stream model, a run of windows on a window model.
///
/// Answers leave in the order of their frames. A frame that the engine took and a reply that waits
/// behind one each hold a slot; when all are held the socket is not read, so a client that sends
/// ahead is slowed down and never refused.
class StreamSocket final : public SocketHandler, public std::enable_shared_from_this<StreamSocket> {
 public:
  explicit StreamSocket(ServeState& state);

  void on_open(SocketPeer& peer) override { peer_ = &peer; }
  bool on_message(const SocketMessage& message) override;
  void on_drain() override;
  void on_closed() override;

 private:
  struct Slot final : StepSink, WindowSink, Mailbox::Item {
    void on_step(const StepAnswer& answer) noexcept override;
    void on_window(const WindowAnswer& answer) noexcept override;
    void deliver() override { owner->delivered(*this); }

    StreamSocket* owner = nullptr;
    bool done = false;
    std::string text;  // the reply, once done
    std::int64_t sequence = 0;
    TimeNs arrived_ns = 0;
    TimeNs deadline_ns = kNoDeadline;
    std::vector<float> behavior;
    StepStatus status = StepStatus::fresh;
    std::int64_t dropped_events = 0;
    TimeNs submitted_ns = 0;
    TimeNs started_ns = 0;
    TimeNs finished_ns = 0;
    std::optional<Error> error;
  };

  void take_open(const OpenFrame& frame);
  bool take_step(const StepFrame& frame, TimeNs arrived_ns);
  bool take_window(const StepFrame& frame, TimeNs arrived_ns);
  Result<void> open_session(const SessionOptions& options);
  std::optional<ApiError> check_order(const StepFrame& frame) const;

  Slot& next_slot() { return slots_[(head_ + count_) % capacity_]; }
  Slot& prepare_slot(const StepFrame& frame, TimeNs arrived_ns);
  /// The engine has the slot now.
  void submitted();
  /// The engine refused; false where the frame should be offered again.
  bool submit_failed(const Error& error, std::int64_t sequence);
  void delivered(Slot& slot);
  std::string answer_text(const Slot& slot);
  void record(const Slot& slot, TimeNs now);

  void reply(std::string text);
  void reply_error(const ApiError& error, std::optional<std::int64_t> sequence);
  void flush();
  void finish_close();
  std::string opened_text() const;
  std::string closed_text(const SessionSummary& summary) const;

  const ModelInfo& model() const { return state_.engine->model(); }
  bool is_stream() const { return model().kind == "stream"; }

  ServeState& state_;
  SocketPeer* peer_ = nullptr;
  std::unique_ptr<Slot[]> slots_;  // a ring; the engine holds pointers into it
  int capacity_ = 0;
  int head_ = 0;
  int count_ = 0;
  int in_flight_ = 0;
  std::shared_ptr<StreamSocket> keep_alive_;  // while the engine holds a slot

  SessionId session_ = 0;
  bool is_open_ = false;
  bool is_lost_ = false;
  bool closing_ = false;  // the client asked for it
  bool retrying_ = false;
  TimeNs retry_until_ns_ = 0;
  std::int64_t next_ = 0;
  std::size_t units_ = 0;
  bool drop_out_of_step_ = false;
  std::optional<double> deadline_ms_;
  std::optional<bool> best_effort_;
  SessionSummary windows_;  // on a window model, where the engine knows of no session
  LatencyHistogram window_latency_;
};

}  // namespace cortex
