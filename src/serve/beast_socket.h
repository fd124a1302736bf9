#pragma once

// Included by the sources that include beast_http.h alone: Beast is expensive to compile.

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <memory>
#include <string>
#include <utility>

#include "serve/beast_stream.h"
#include "serve/connection.h"
#include "serve/outbox.h"

namespace cortex {

/// A WebSocket: reads one message ahead of its handler, writes in order, gives up on a peer that
/// neither reads nor finishes what it began.
template <class Stream>
class WsConnection final : public Connection, public SocketPeer {
 public:
  using Request = beast::http::request<beast::http::string_body>;

  WsConnection(ConnectionHost& host, Stream stream, std::shared_ptr<SocketHandler> handler)
      : Connection(host), ws_(std::move(stream)), handler_(std::move(handler)) {}

  void accept(Request request) {
    const ServerOptions& options = host_.state.options;
    // Beast's own pings would take a peer for silent whose frames are held back.
    ws_.set_option(beast::websocket::stream_base::timeout{
        milliseconds_of(options.read_timeout_s), beast::websocket::stream_base::none(), false});
    ws_.control_callback(
        [this](beast::websocket::frame_type, beast::string_view) { heard(now()); });
    ws_.read_message_max(options.max_body);
    ws_.auto_fragment(false);
    request_ = std::move(request);
    ws_.async_accept(request_, [me = self<WsConnection>()](beast::error_code ec) {
      if (ec) return me->gone();
      me->request_ = {};
      // Nothing is pending while a message is held back: the connection owns itself.
      me->alive_ = me;
      me->handler_->on_open(*me);
      if (me->host_.state.draining) me->handler_->on_drain();
      me->open_ = true;
      me->heard(now());
      me->read();
    });
  }

  void send(std::string& payload, bool is_text, TracePtr trace) override {
    if (gone_ || close_sent_) return;
    outbox_.push(payload, is_text, std::move(trace));
    if (!writing_) write();
  }

  void resume() override {
    if (held_ && !offering_) offer();
  }

  void close(std::uint16_t code, std::string_view reason) override {
    if (gone_ || closing_) return;
    closing_ = true;
    reason_ = beast::websocket::close_reason(static_cast<beast::websocket::close_code>(code),
                                             beast::string_view(reason.data(), reason.size()));
    if (!writing_) send_close();
  }

  void check(TimeNs now) override {
    if (give_up_ns_ < now || message_due_ns_ < now) return abort();
    if (open_ && !closing_ && !gone_) handler_->check(now);
    // One whose frames are held back has no way to be heard.
    if (open_ && !held_ && !closing_ && !gone_ && quiet_until_ns_ < now) ask(now);
  }
  void drain() override {
    if (handler_ && open_) handler_->on_drain();
  }
  void abort() override {
    const auto guard = shared_from_this();
    gone();
  }

 private:
  static constexpr std::size_t kReadChunk = 64 << 10;
  /// Answers a client may leave unread before its frames are left unread too.
  static constexpr std::size_t kMaxUnsent = 64;
  /// How long a peer may take to answer a close.
  static constexpr double kCloseS = 2;

  void read() {
    ws_.async_read_some(buffer_, kReadChunk,
                        [me = self<WsConnection>()](beast::error_code ec, std::size_t) {
                          if (ec) return me->gone();
                          me->received();
                        });
  }

  void heard(TimeNs at) {
    asked_ = false;
    quiet_until_ns_ = at + half_ping_ns();
  }
  TimeNs half_ping_ns() const { return static_cast<TimeNs>(host_.state.options.ping_s * 0.5e9); }

  /// A silent peer is asked for a sign of life, once.
  void ask(TimeNs now) {
    if (std::exchange(asked_, true)) return abort();
    quiet_until_ns_ = now + half_ping_ns();
    if (std::exchange(pinging_, true)) return;  // the one before has not left
    ws_.async_ping({}, [me = self<WsConnection>()](beast::error_code) { me->pinging_ = false; });
  }

  void received() {
    if (gone_) return;
    arrived_ns_ = now();
    heard(arrived_ns_);
    if (!ws_.is_message_done()) {
      if (message_due_ns_ == kNever)
        message_due_ns_ = in_seconds(host_.state.options.read_timeout_s);
      return read();
    }
    message_due_ns_ = kNever;
    offer();
  }

  void offer() {
    if (gone_ || closing_) {
      held_ = false;
      buffer_.clear();
      if (!gone_) read();  // a peer's close frame is still awaited
      return;
    }
    if (outbox_.size() >= kMaxUnsent) {
      held_ = true;
      return;
    }
    const auto bytes = buffer_.cdata();
    offering_ = true;
    const bool taken =
        handler_->on_message({.bytes = {static_cast<const char*>(bytes.data()), bytes.size()},
                              .is_text = ws_.got_text(),
                              .arrived_ns = arrived_ns_});
    offering_ = false;
    if (held_ && taken) heard(now());
    held_ = !taken;
    if (held_ || gone_) return;
    buffer_.clear();
    read();
  }

  void write() {
    writing_ = true;
    give_up_ns_ = in_seconds(host_.state.options.write_timeout_s);
    outbox_.take(leaving_);
    ws_.text(leaving_.is_text);
    ws_.async_write(asio::buffer(leaving_.payload),
                    [me = self<WsConnection>()](beast::error_code ec, std::size_t) {
                      if (ec) return me->gone();
                      me->written();
                    });
  }

  void written() {
    writing_ = false;
    give_up_ns_ = kNever;
    sent(leaving_.trace);
    leaving_.trace.reset();
    if (gone_) return;
    if (!outbox_.empty()) {
      write();
    } else if (closing_) {
      return send_close();
    }
    resume();
  }

  void send_close() {
    if (close_sent_) return;
    close_sent_ = true;
    give_up_ns_ = in_seconds(kCloseS);
    ws_.async_close(reason_, [me = self<WsConnection>()](beast::error_code) { me->gone(); });
  }

  void gone() {
    if (gone_) return;
    gone_ = true;
    give_up_ns_ = message_due_ns_ = kNever;
    if (open_) handler_->on_closed();
    handler_.reset();
    close_stream(ws_.next_layer());
    alive_.reset();  // every caller holds another reference
  }

  beast::websocket::stream<Stream, false> ws_;  // without compression
  std::shared_ptr<SocketHandler> handler_;
  std::shared_ptr<WsConnection> alive_;  // until gone()
  Request request_;
  beast::flat_buffer buffer_;
  Outbox outbox_;
  Outbox::Message leaving_;  // being written
  beast::websocket::close_reason reason_;
  TimeNs arrived_ns_ = 0;
  TimeNs give_up_ns_ = kNever;
  TimeNs message_due_ns_ = kNever;
  TimeNs quiet_until_ns_ = kNever;
  bool asked_ = false;    // for a sign of life
  bool pinging_ = false;  // a ping is on its way out
  bool open_ = false;
  bool held_ = false;  // the buffer keeps a message that the handler has no room for
  bool offering_ = false;
  bool writing_ = false;
  bool closing_ = false;
  bool close_sent_ = false;
  bool gone_ = false;
};

}  // namespace cortex
