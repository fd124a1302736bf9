#pragma once

// Included by http_server.cpp alone: Beast is expensive to compile.

#include <boost/asio/buffer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket.hpp>
#include <chrono>
#include <deque>
#include <memory>
#include <string>
#include <utility>

#include "serve/connection.h"

namespace cortex {

namespace asio = boost::asio;
namespace beast = boost::beast;

inline std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
}

/// A WebSocket: reads one message ahead of its handler, writes in order, gives up on a peer that
/// neither reads nor finishes what it began.
class WsConnection final : public Connection, public SocketPeer {
 public:
  using Request = beast::http::request<beast::http::string_body>;

  WsConnection(ConnectionHost& host, beast::tcp_stream stream,
               std::shared_ptr<SocketHandler> handler)
      : Connection(host), ws_(std::move(stream)), handler_(std::move(handler)) {}

  void accept(Request request) {
    const ServerOptions& options = host_.state.options;
    beast::get_lowest_layer(ws_).expires_never();
    ws_.set_option(beast::websocket::stream_base::timeout{milliseconds_of(options.read_timeout_s),
                                                          milliseconds_of(options.ping_s), true});
    ws_.read_message_max(options.max_body);
    ws_.auto_fragment(false);
    ws_.text(true);
    request_ = std::move(request);
    ws_.async_accept(request_, [me = self<WsConnection>()](beast::error_code ec) {
      if (ec) return me->gone();
      me->request_ = {};
      // Nothing is pending while a message is held back: the connection owns itself.
      me->alive_ = me;
      me->handler_->on_open(*me);
      if (me->host_.state.draining) me->handler_->on_drain();
      me->open_ = true;
      me->read();
    });
  }

  void send(std::string text) override {
    if (gone_ || close_sent_) return;
    outbox_.push_back(std::move(text));
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
    if (give_up_ns_ < now || message_due_ns_ < now) abort();
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

  void received() {
    if (gone_) return;
    if (!ws_.is_message_done()) {
      if (message_due_ns_ == kNever)
        message_due_ns_ = in_seconds(host_.state.options.read_timeout_s);
      return read();
    }
    message_due_ns_ = kNever;
    arrived_ns_ = now();
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
        handler_->on_message({.text = {static_cast<const char*>(bytes.data()), bytes.size()},
                              .is_text = ws_.got_text(),
                              .arrived_ns = arrived_ns_});
    offering_ = false;
    held_ = !taken;
    if (held_ || gone_) return;
    buffer_.clear();
    read();
  }

  void write() {
    writing_ = true;
    give_up_ns_ = in_seconds(host_.state.options.write_timeout_s);
    ws_.async_write(asio::buffer(outbox_.front()),
                    [me = self<WsConnection>()](beast::error_code ec, std::size_t) {
                      if (ec) return me->gone();
                      me->written();
                    });
  }

  void written() {
    writing_ = false;
    give_up_ns_ = kNever;
    outbox_.pop_front();
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
    beast::get_lowest_layer(ws_).close();
    alive_.reset();  // every caller holds another reference
  }

  beast::websocket::stream<beast::tcp_stream> ws_;
  std::shared_ptr<SocketHandler> handler_;
  std::shared_ptr<WsConnection> alive_;  // until gone()
  Request request_;
  beast::flat_buffer buffer_;
  std::deque<std::string> outbox_;
  beast::websocket::close_reason reason_;
  TimeNs arrived_ns_ = 0;
  TimeNs give_up_ns_ = kNever;
  TimeNs message_due_ns_ = kNever;
  bool open_ = false;
  bool held_ = false;  // the buffer keeps a message that the handler has no room for
  bool offering_ = false;
  bool writing_ = false;
  bool closing_ = false;
  bool close_sent_ = false;
  bool gone_ = false;
};

}  // namespace cortex
