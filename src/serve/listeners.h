#pragma once

// Included by http_server.cpp alone.

#include <cortex/result.h>

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <chrono>
#include <functional>
#include <string>
#include <utility>

#include "serve/beast_stream.h"
#include "serve/transport.h"

namespace cortex {

/// Accepts connections of one protocol and hands them over as streams.
template <class Protocol>
class Listener {
 public:
  using Welcome = std::function<void(PlainStream, Peer)>;
  using Later = std::function<void(std::chrono::milliseconds, std::function<void()>)>;

  explicit Listener(asio::io_context& io) : acceptor_(io) {}

  /// Binds; throws boost::system::system_error.
  void bind(const typename Protocol::endpoint& endpoint) {
    acceptor_.open(endpoint.protocol());
    acceptor_.set_option(asio::socket_base::reuse_address(true));
    acceptor_.bind(endpoint);
  }
  void listen() { acceptor_.listen(); }
  auto local_endpoint() const { return acceptor_.local_endpoint(); }

  void run(Welcome welcome, Later later) {
    welcome_ = std::move(welcome);
    later_ = std::move(later);
    if (acceptor_.is_open()) accept();
  }
  void close() {
    beast::error_code ignored;
    acceptor_.close(ignored);
  }

 private:
  using Socket = asio::basic_stream_socket<Protocol, asio::io_context::executor_type>;

  void accept() {
    acceptor_.async_accept([this](beast::error_code ec, Socket socket) {
      if (!acceptor_.is_open()) return;
      if (ec) {
        // Out of descriptors, most likely: let some close before the next try.
        later_(std::chrono::milliseconds(100), [this] {
          if (acceptor_.is_open()) accept();
        });
        return;
      }
      Peer peer = peer_of(socket);
      welcome_(PlainStream(std::move(socket)), std::move(peer));
      accept();
    });
  }

  static Peer peer_of(Socket& socket);

  asio::basic_socket_acceptor<Protocol, asio::io_context::executor_type> acceptor_;
  Welcome welcome_;
  Later later_;
};

}  // namespace cortex
