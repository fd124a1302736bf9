#include "load_socket_port.h"

#include <utility>

namespace cortex {
namespace {

constexpr std::size_t kChunk = 64 << 10;

}  // namespace

SocketPort::SocketPort(LoadPoller& poller, ClientSocket socket, std::unique_ptr<LoadWire> wire,
                       std::function<Result<ClientSocket>()> reopen)
    : poller_(poller),
      socket_(std::move(socket)),
      wire_(std::move(wire)),
      reopen_(std::move(reopen)) {
  poller_.add(socket_.fd(), *this);
}

SocketPort::~SocketPort() {
  if (socket_.is_open()) poller_.remove(socket_.fd());
}

void SocketPort::send(const LoadRequest& request) {
  if (!socket_.is_open() && !reopen()) return;
  ++awaited_;
  const std::string_view bytes = wire_->request(request);
  if (keeps_bytes_) last_request_ = bytes;
  write(bytes);
}

void SocketPort::close() {
  closing_ = true;
  if (socket_.is_open()) write(wire_->farewell());
}

void SocketPort::write(std::string_view bytes) {
  if (output_.empty()) {
    const Transfer sent = socket_.send(bytes);
    if (!sent.failed.empty()) return end(sent.failed);
    bytes.remove_prefix(sent.bytes);
    if (bytes.empty()) return;
  }
  output_ += bytes;
  if (!std::exchange(watches_writable_, true)) poller_.watch_writable(socket_.fd(), *this, true);
}

void SocketPort::flush() {
  while (written_ < output_.size()) {
    const Transfer sent = socket_.send(std::string_view(output_).substr(written_));
    if (!sent.failed.empty()) return end(sent.failed);
    if (sent.would_block) return;
    written_ += sent.bytes;
    // A server that is always behind never lets it run empty.
    if (written_ > output_.size() / 2) {
      output_.erase(0, written_);
      written_ = 0;
    }
  }
  output_.clear();
  written_ = 0;
  watches_writable_ = false;
  poller_.watch_writable(socket_.fd(), *this, false);
}

void SocketPort::on_readable() {
  if (!socket_.is_open()) return;
  const Transfer got = socket_.receive(input_.room(kChunk));
  if (got.would_block) return;
  if (!got.failed.empty()) return end(got.failed);
  input_.commit(got.bytes);
  take_replies();
  if (socket_.is_open() && socket_.has_pending()) on_readable();
}

void SocketPort::take_replies() {
  for (;;) {
    auto read = wire_->read(input_.view());
    if (!read) return end(read.error().message);
    if (read->consumed == 0) return;
    if (!read->to_send.empty()) write(read->to_send);
    if (keeps_bytes_ && read->reply) last_reply_ = input_.view().substr(0, read->consumed);
    if (read->reconnect) disconnect();
    // The reply's values do not lie in the input: what was read may go before the owner sends more.
    input_.consume(read->consumed);
    if (read->reply) {
      --awaited_;
      if (on_reply) on_reply(*read->reply);
    }
    if (!socket_.is_open()) {
      if (read->reconnect && !reopen_) lose("the server closed the connection");
      return;
    }
  }
}

bool SocketPort::reopen() {
  if (!reopen_) return false;
  auto again = reopen_();
  if (!again) {
    lose(again.error().message);
    return false;
  }
  socket_ = *std::move(again);
  poller_.add(socket_.fd(), *this);
  input_ = {};
  output_.clear();
  written_ = 0;
  watches_writable_ = false;
  return true;
}

void SocketPort::disconnect() {
  poller_.remove(socket_.fd());
  socket_.close();
}

void SocketPort::end(const std::string& why) {
  if (!socket_.is_open()) return;
  disconnect();
  // A server may close a connection that waits for a request; the next request opens another.
  if (!reopen_ || awaited_ > 0) lose(why);
}

void SocketPort::lose(const std::string& why) {
  if (on_lost && !closing_) on_lost(why);
}

}  // namespace cortex
