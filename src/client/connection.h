#pragma once

#include <cortex/client.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "client/address.h"
#include "client/http_message.h"
#include "client/input_buffer.h"
#include "client/socket.h"

namespace cortex {

/// A socket with what has arrived on it, used by one blocking caller.
class ClientConnection {
 public:
  /// `options` as far as they say who is trusted.
  static Result<ClientConnection> connect(const std::string& url, const ClientOptions& options,
                                          TimeNs until);

  /// A WebSocket: connects and upgrades.
  static Result<ClientConnection> connect_websocket(const std::string& url, const std::string& path,
                                                    const ClientOptions& options, TimeNs until);

  /// unavailable: the connection is over, or `until` has come; says why.
  Result<void> write(std::string_view bytes, TimeNs until);
  /// Waits for more bytes than input() has.
  Result<void> read_more(TimeNs until);
  /// Sends a request and reads its answer; its views end with the next read.
  Result<HttpReply> exchange(std::string_view request, TimeNs until);

  InputBuffer& input() { return input_; }
  const Address& address() const { return address_; }
  bool is_open() const { return socket_.is_open(); }
  void close() { socket_.close(); }
  /// What has arrived is left behind.
  ClientSocket take_socket() { return std::move(socket_); }

 private:
  Address address_;
  ClientSocket socket_;
  InputBuffer input_;
};

}  // namespace cortex
