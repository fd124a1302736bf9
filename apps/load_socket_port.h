#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "client/input_buffer.h"
#include "client/socket.h"
#include "load_poller.h"
#include "load_port.h"
#include "load_wire.h"

namespace cortex {

/// A connection to a server, or to a bare echo of one.
class SocketPort final : public LoadPort, public LoadPoller::Client {
 public:
  /// `reopen`: how to connect anew where the server closed between two requests; empty: that is a
  /// loss.
  SocketPort(LoadPoller& poller, ClientSocket socket, std::unique_ptr<LoadWire> wire,
             std::function<Result<ClientSocket>()> reopen);
  ~SocketPort() override;

  void send(const LoadRequest& request) override;
  void close() override;

  /// The bytes of the last request and of the reply that came last.
  const std::string& last_request() const { return last_request_; }
  const std::string& last_reply() const { return last_reply_; }
  void keep_bytes() { keeps_bytes_ = true; }

 private:
  void on_readable() override;
  void on_writable() override { flush(); }
  void write(std::string_view bytes);
  void flush();
  void take_replies();
  bool reopen();
  void disconnect();
  void end(const std::string& why);
  void lose(const std::string& why);

  LoadPoller& poller_;
  ClientSocket socket_;
  std::unique_ptr<LoadWire> wire_;
  std::function<Result<ClientSocket>()> reopen_;
  InputBuffer input_;
  std::string output_;
  std::size_t written_ = 0;
  int awaited_ = 0;  // replies
  bool watches_writable_ = false;
  bool closing_ = false;
  bool keeps_bytes_ = false;
  std::string last_request_;
  std::string last_reply_;
};

}  // namespace cortex
