#pragma once

// Included by the sources that include beast_http.h alone: Beast is expensive to compile.

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/beast/core/error.hpp>
#include <chrono>
#include <cstdint>
#include <utility>

/// The streams that connections run over, and what differs between them.
namespace cortex {

namespace asio = boost::asio;
namespace beast = boost::beast;

/// A TCP or a Unix socket: one type, so that connections are compiled once for both.
using PlainStream =
    asio::basic_stream_socket<asio::generic::stream_protocol, asio::io_context::executor_type>;

/// Specialised for TLS in tls_connection.cpp.
template <class Stream>
struct StreamTraits {
  static PlainStream& socket(Stream& stream) { return stream; }
  template <class Done>
  static void handshake(Stream&, Done done) {
    done(beast::error_code());
  }
  /// Says that nothing more will be sent.
  template <class Done>
  static void end_sending(Stream& stream, Done done) {
    beast::error_code ec;
    stream.shutdown(asio::socket_base::shutdown_send, ec);
    done(ec);
  }
};

template <class Stream>
void close_stream(Stream& stream) {
  beast::error_code ignored;
  StreamTraits<Stream>::socket(stream).close(ignored);
}

inline std::chrono::milliseconds milliseconds_of(double seconds) {
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1e3));
}

}  // namespace cortex
