#include "client/connection.h"

#include <fmt/format.h>

#include <utility>

#include "client/websocket.h"

namespace cortex {
namespace {

constexpr std::size_t kChunk = 16 << 10;

Error over(std::string why) { return {ErrorCode::unavailable, std::move(why), ""}; }

}  // namespace

Result<ClientConnection> ClientConnection::connect(const std::string& url,
                                                   const ClientOptions& options, TimeNs until) {
  auto address = parse_url(url);
  if (!address) return address.error();
  auto socket = ClientSocket::connect(*address, url, options.tls_ca_file, until);
  if (!socket) return socket.error();
  ClientConnection connection;
  connection.address_ = *std::move(address);
  connection.socket_ = *std::move(socket);
  return connection;
}

Result<ClientConnection> ClientConnection::connect_websocket(const std::string& url,
                                                             const std::string& path,
                                                             const ClientOptions& options,
                                                             TimeNs until) {
  auto connection = connect(url, options, until);
  if (!connection) return connection.error();
  const std::string key = websocket::make_key();
  const auto reply = connection->exchange(
      websocket::upgrade_request(path, connection->address().authority(), key, options.api_key),
      until);
  const auto fail = [&](const std::string& why) {
    return Error{ErrorCode::unavailable, fmt::format("{}{}: {}", url, path, why), "url"};
  };
  if (!reply) return fail(reply.error().message);
  if (reply->status != 101) return fail(fmt::format("the server answered {}", reply->status));
  if (reply->header("Sec-WebSocket-Accept") != websocket::accept_of(key))
    return fail("the server's Sec-WebSocket-Accept is not that of our key");
  return connection;
}

Result<void> ClientConnection::write(std::string_view bytes, TimeNs until) {
  while (!bytes.empty()) {
    const Transfer sent = socket_.send(bytes);
    bytes.remove_prefix(sent.bytes);
    if (!sent.failed.empty()) return over(sent.failed);
    if (sent.would_block && !socket_.wait_writable(until)) return over("timed out");
  }
  return {};
}

Result<void> ClientConnection::read_more(TimeNs until) {
  for (;;) {
    const Transfer got = socket_.receive(input_.room(kChunk));
    if (!got.failed.empty()) return over(got.failed);
    if (!got.would_block) {
      input_.commit(got.bytes);
      return {};
    }
    if (!socket_.wait_readable(until)) return over("timed out");
  }
}

Result<HttpReply> ClientConnection::exchange(std::string_view request, TimeNs until) {
  if (const auto sent = write(request, until); !sent) return sent.error();
  bool is_end = false;
  for (;;) {
    auto reply = parse_http_reply(input_.view(), is_end);
    if (!reply) return reply.error();
    if (reply->has_value()) {
      input_.consume((*reply)->size);
      return **std::move(reply);
    }
    const auto more = read_more(until);
    if (more) continue;
    // The end of the connection may be the end of a body that named no length.
    if (is_end) return more.error();
    is_end = true;
  }
}

}  // namespace cortex
