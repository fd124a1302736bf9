#pragma once

// Included by http_server.cpp and tls_connection.cpp alone: Beast is expensive to compile.

#include <fmt/format.h>

#include <algorithm>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/websocket/rfc6455.hpp>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "serve/beast_socket.h"
#include "serve/connection.h"

namespace cortex {

namespace http = beast::http;

/// One HTTP connection: a request, its answer, the next request.
template <class Stream>
class HttpConnection final : public Connection {
 public:
  /// `turned_away`: over the limit of connections, so whatever it asks the answer is 503.
  HttpConnection(ConnectionHost& host, Stream stream, Peer peer, bool turned_away)
      : Connection(host),
        stream_(std::move(stream)),
        peer_(std::move(peer)),
        turned_away_(turned_away) {}

  void start() {
    phase_ = Phase::idle;
    due_ns_ = in_seconds(patience());
    Traits::handshake(stream_, [me = self<HttpConnection>()](beast::error_code ec) {
      if (ec) return me->close();
      me->wait_request(me->host_.state.options.read_timeout_s);
    });
  }

  void check(TimeNs now) override {
    if (now <= due_ns_) return;
    due_ns_ = kNever;
    if (phase_ != Phase::reading) return close();
    timed_out_ = true;  // there is a client to tell, so the socket stays open for the answer
    beast::error_code ignored;
    Traits::socket(stream_).cancel(ignored);
  }
  void drain() override {
    if (phase_ == Phase::idle || phase_ == Phase::leaving) close();
  }
  void abort() override { close(); }

 private:
  using Traits = StreamTraits<Stream>;
  enum class Phase { idle, reading, answering, writing, leaving };
  static constexpr std::size_t kChunk = 16 << 10;
  static constexpr std::size_t kBodyChunk = 64 << 10;
  static constexpr std::uint32_t kHeaderLimit = 16 << 10;
  static constexpr double kTurnedAwayS = 2;
  static constexpr double kLeaveS = 1;

  double patience() const {
    return turned_away_ ? kTurnedAwayS : host_.state.options.read_timeout_s;
  }

  /// Waits for the first byte, which may take as long as a kept connection may idle.
  void wait_request(double patience_s) {
    parser_.emplace();
    parser_->header_limit(kHeaderLimit);
    parser_->body_limit(host_.state.options.max_body);
    if (closed_) return;
    if (buffer_.size() > 0) return begin_request();  // a pipelined one
    if (host_.state.draining) return close();
    phase_ = Phase::idle;
    due_ns_ = in_seconds(turned_away_ ? kTurnedAwayS : patience_s);
    receive();
  }

  void receive() {
    const std::size_t chunk = parser_->is_header_done() ? kBodyChunk : kChunk;
    stream_.async_read_some(buffer_.prepare(chunk),
                            [me = self<HttpConnection>()](beast::error_code ec, std::size_t bytes) {
                              if (ec || me->timed_out_) return me->failed(ec);
                              me->buffer_.commit(bytes);
                              if (me->phase_ == Phase::idle) return me->begin_request();
                              me->parse();
                            });
  }

  void begin_request() {
    phase_ = Phase::reading;
    due_ns_ = in_seconds(patience());
    parse();
  }

  /// Parses what has come and goes on at once. Beast's composed reads would go on in another turn
  /// of the event loop, one for the header and one for the body.
  void parse() {
    const bool had_header = parser_->is_header_done();
    beast::error_code ec;
    if (buffer_.size() > 0) buffer_.consume(parser_->put(buffer_.data(), ec));
    if (ec && ec != http::error::need_more) return failed(ec);
    if (!had_header && parser_->is_header_done()) return on_header();
    if (parser_->is_done()) return dispatch();
    receive();
  }

  void on_header() {
    const auto& header = parser_->get();
    arrived_ns_ = now();
    head_ = header.method() == http::verb::head;
    version_ = header.version();
    if (turned_away_) {
      ++host_.state.metrics.connections_refused;
      return refuse(ApiError(
          Error{ErrorCode::unavailable,
                fmt::format("{} connections are open already (--max-connections); try again",
                            host_.state.options.max_connections),
                ""}));
    }
    if (beast::websocket::is_upgrade(header)) return upgrade();
    if (!beast::iequals(header[http::field::expect], "100-continue")) return read_body();
    phase_ = Phase::reading;
    interim_ = {http::status::continue_, 11};
    http::async_write(stream_, interim_,
                      [me = self<HttpConnection>()](beast::error_code ec, std::size_t) {
                        if (ec) return me->close();
                        me->read_body();
                      });
  }

  void read_body() {
    if (parser_->is_done()) return dispatch();
    parser_->eager(true);  // all that is there of the body, and not a piece at a time
    parse();
  }

  HttpRequest take_request() {
    auto& message = parser_->get();
    // Whatever a client writes may come back in a message: it is made printable here, once.
    const auto text = [](beast::string_view raw) {
      std::string out(raw.data(), raw.size());
      for (char& c : out)
        if (c < 0x20 || c > 0x7e) c = '?';
      return out;
    };
    // Divided before that: what is replaced by '?' must not become a query.
    const beast::string_view target = message.target();
    const auto question = std::min(target.find('?'), target.size());
    return {.method = text(message.method_string()),
            .path = text(target.substr(0, question)),
            .query = text(target.substr(std::min(question + 1, target.size()))),
            .body = std::move(message.body()),
            .content_type = text(message[http::field::content_type]),
            .authorization = text(message[http::field::authorization]),
            .origin = text(message[http::field::origin]),
            .host = text(message[http::field::host]),
            .traceparent = text(message["traceparent"]),
            .request_id = text(message["X-Request-Id"]),
            .json_length = text(message["Inference-Header-Content-Length"]),
            .peer = peer_,
            .arrived_ns = arrived_ns_};
  }

  void dispatch() {
    phase_ = Phase::answering;
    due_ns_ = kNever;
    arrived_ns_ = now();
    keep_alive_ = parser_->get().keep_alive();
    withdraw_ = host_.router.handle(
        take_request(),
        [me = self<HttpConnection>()](HttpResponse response) { me->respond(std::move(response)); });
    if (withdraw_) watch_for_reset();
  }

  /// A client that resets the connection wants no answer. One that has only ended its sending may.
  void watch_for_reset() {
    Traits::socket(stream_).async_wait(asio::socket_base::wait_error,
                                       [me = self<HttpConnection>()](beast::error_code ec) {
                                         if (!ec) me->withdraw();
                                       });
  }
  void withdraw() {
    if (!withdraw_) return;
    const auto guard = shared_from_this();  // the reply holds the connection and may go now
    std::exchange(withdraw_, nullptr)();
    close();
  }

  void upgrade() {
    keep_alive_ = false;
    auto outcome = host_.router.upgrade(take_request());
    if (auto* response = std::get_if<HttpResponse>(&outcome)) return respond(std::move(*response));
    phase_ = Phase::leaving;
    due_ns_ = kNever;
    std::make_shared<WsConnection<Stream>>(
        host_, std::move(stream_), std::move(std::get<std::shared_ptr<SocketHandler>>(outcome)))
        ->accept(parser_->release());
  }

  /// A request that did not parse, was too large or did not come to its end.
  void failed(beast::error_code ec) {
    const ServerOptions& options = host_.state.options;
    if (timed_out_)
      return refuse(ApiError(408, "timeout",
                             fmt::format("the request did not arrive within {} s (--read-timeout)",
                                         options.read_timeout_s)));
    if (ec == http::error::body_limit)
      return refuse(ApiError(Error{
          ErrorCode::too_large,
          fmt::format("the body has more than {} bytes (--max-body)", options.max_body), "body"}));
    if (ec == http::error::header_limit)
      return refuse(ApiError(431, "too_large",
                             fmt::format("the header has more than {} bytes", kHeaderLimit)));
    // Beast's own errors are of its parser; others are of the connection, whose end is one.
    if (ec.category() == http::make_error_code(http::error::bad_method).category())
      return refuse(ApiError(
          Error{ErrorCode::invalid_argument, "not a valid HTTP request: " + ec.message(), ""}));
    close();
  }

  void refuse(const ApiError& error) {
    keep_alive_ = false;
    respond(host_.router.refuse(error));
  }

  void respond(HttpResponse response) {
    if (std::exchange(withdraw_, nullptr)) {
      beast::error_code ignored;
      Traits::socket(stream_).cancel(ignored);  // the watch for a reset
    }
    if (closed_) return;
    phase_ = Phase::writing;
    if (host_.state.draining) keep_alive_ = false;
    response_ = {};
    response_.version(version_);
    response_.result(static_cast<unsigned>(response.status));
    response_.set(http::field::content_type, response.content_type);
    for (const auto& [name, value] : response.headers) response_.set(name, value);
    response_.keep_alive(keep_alive_);
    response_.body() = std::move(response.body);
    response_.prepare_payload();
    if (head_) response_.body().clear();  // the length stays that of a GET
    trace_ = std::move(response.trace);
    due_ns_ = in_seconds(host_.state.options.write_timeout_s);
    http::async_write(stream_, response_,
                      [me = self<HttpConnection>()](beast::error_code ec, std::size_t) {
                        if (ec) return me->close();
                        sent(me->trace_);
                        me->trace_.reset();
                        if (!me->keep_alive_) return me->leave();
                        me->wait_request(me->host_.state.options.idle_timeout_s);
                      });
  }

  /// Closes without a reset: a client that is still sending gets to read the answer.
  void leave() {
    phase_ = Phase::leaving;
    due_ns_ = in_seconds(kLeaveS);
    Traits::end_sending(stream_, [me = self<HttpConnection>()](beast::error_code ec) {
      if (ec) return me->close();
      me->discard();
    });
  }

  void discard() {
    buffer_.clear();
    Traits::socket(stream_).async_read_some(
        buffer_.prepare(kChunk), [me = self<HttpConnection>()](beast::error_code ec, std::size_t) {
          if (ec) return me->close();
          me->discard();
        });
  }

  void close() {
    closed_ = true;
    due_ns_ = kNever;
    trace_.reset();
    close_stream(stream_);
  }

  Stream stream_;
  const Peer peer_;
  beast::flat_buffer buffer_;
  std::optional<http::request_parser<http::string_body>> parser_;
  http::response<http::empty_body> interim_;
  http::response<http::string_body> response_;
  Withdraw withdraw_;  // while an answer is waited for
  TracePtr trace_;     // of the answer that is being written
  Phase phase_ = Phase::idle;
  TimeNs due_ns_ = kNever;
  TimeNs arrived_ns_ = 0;
  unsigned version_ = 11;
  bool turned_away_ = false;
  bool keep_alive_ = false;
  bool head_ = false;
  bool timed_out_ = false;
  bool closed_ = false;
};

}  // namespace cortex
