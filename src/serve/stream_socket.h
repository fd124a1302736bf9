#pragma once

#include <cortex/engine.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "serve/api_error.h"
#include "serve/kept_answer.h"
#include "serve/serve_state.h"
#include "serve/transport.h"

namespace cortex {

/// Who opened a stream's WebSocket, and where.
struct StreamOrigin {
  std::string_view route;  ///< of static storage
  bool takes_binary = false;
  std::string model = {};   ///< of the URL; empty: the default
  std::string client = {};  ///< whose rate counts
  Caller caller = {};
  std::string request_id = {};
  std::optional<TraceContext> trace = {};
};

/// One stream WebSocket: a session on a stream model, a run of windows on a window model.
///
/// Answers leave in the order of their frames, each in the form of its frame. A frame that the
/// engine took and a reply that waits behind one each hold a slot; when all are held the socket is
/// not read, so a client that sends ahead is slowed down and never refused.
class StreamSocket final : public SocketHandler, public std::enable_shared_from_this<StreamSocket> {
 public:
  StreamSocket(ServeState& state, StreamOrigin origin, ModelRef model);

  void on_open(SocketPeer& peer) override { peer_ = &peer; }
  bool on_message(const SocketMessage& message) override;
  /// Closes a session that has fallen behind by more than --max-behind-s.
  void check(TimeNs now) override;
  void on_drain() override;
  void on_closed() override;

 private:
  struct Slot final : StepSink, WindowSink, Mailbox::Item {
    void on_step(const StepAnswer& kept) noexcept override;
    void on_window(const WindowAnswer& kept) noexcept override;
    void deliver() override { owner->delivered(*this); }

    StreamSocket* owner = nullptr;
    bool done = false;
    bool is_text = true;
    std::string payload;  // the reply, once done
    std::int64_t sequence = 0;
    RequestTerms terms;
    KeptAnswer answer;
    TracePtr trace;
  };

  bool take_frame(const SocketMessage& message);
  void take_open(const OpenFrame& frame);
  bool take_step(const StepFrame& frame, TimeNs arrived_ns);
  bool take_window(const StepFrame& frame, TimeNs arrived_ns);
  /// The model that is current under a name now; empty: the name of before.
  Result<void> choose_model(std::string_view name);
  void meet_model();
  Result<void> open_session(SessionOptions options);
  std::optional<ApiError> check_order(const StepFrame& frame) const;

  Slot& next_slot() { return slots_[(head_ + count_) % capacity_]; }
  Slot& prepare_slot(const StepFrame& frame, const RequestTerms& terms);
  RequestTerms terms_of(const StepFrame& frame, TimeNs arrived_ns) const;
  /// The engine has the slot now.
  void submitted();
  /// The engine refused; false where the frame should be offered again.
  bool submit_failed(const Error& error, std::int64_t sequence);
  void delivered(Slot& slot);
  /// What a step is told that went with its session.
  Error fell_behind();
  void write_answer(Slot& slot);
  void record(Slot& slot);

  /// A buffer for a reply to the frame at hand, and its way out: behind the answers before it.
  std::string& begin_reply();
  void end_reply();
  void reply_error(const ApiError& error, std::optional<std::int64_t> sequence);
  void flush();
  void finish_close();
  SessionSummary close_session();
  void log_session(std::string_view what) const;

  const ModelInfo& model() const { return model_->engine->model(); }
  bool is_stream() const { return is_stream_; }

  ServeState& state_;
  const StreamOrigin origin_;
  std::string model_name_;
  ModelRef model_;
  bool is_stream_ = true;
  SocketPeer* peer_ = nullptr;
  std::unique_ptr<Slot[]> slots_;  // a ring; the engine holds pointers into it
  int capacity_ = 0;
  int head_ = 0;
  int count_ = 0;
  int in_flight_ = 0;
  std::shared_ptr<StreamSocket> keep_alive_;  // while the engine holds a slot
  std::string spare_;                         // a reply that waits behind nothing is written here

  SessionId session_ = 0;
  bool is_open_ = false;
  bool is_lost_ = false;
  bool closing_ = false;    // the client asked for it
  bool is_behind_ = false;  // the server closes it
  std::string behind_message_;
  bool is_text_ = true;   // the form of the frame at hand
  bool charged_ = false;  // the frame at hand has been counted against the client's rate
  bool retrying_ = false;
  TimeNs retry_until_ns_ = 0;
  std::int64_t next_ = 0;
  std::int64_t decoded_ = -1;  // the last step that was, or the one before the session
  std::size_t units_ = 0;
  double step_rate_hz_ = 0;
  bool drop_out_of_step_ = false;
  std::optional<double> deadline_ms_;
  std::optional<bool> best_effort_;
  // What the engine does not know of: on a window model all, on a stream model the steps that were
  // too late here alone.
  SessionSummary own_;
  LatencyHistogram window_latency_;
};

}  // namespace cortex
