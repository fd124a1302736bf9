#include <fmt/format.h>

#include <utility>

#include "client/connection.h"
#include "client/frame_codec.h"
#include "client/websocket.h"

namespace cortex {
namespace {

Error lost(std::string message) { return {ErrorCode::unavailable, std::move(message), ""}; }

class StreamClientImpl final : public StreamClient {
 public:
  StreamClientImpl(std::string url, const ClientOptions& options)
      : url_(std::move(url)),
        timeout_ns_(static_cast<TimeNs>(options.timeout_s * 1e9)),
        codec_(make_codec(options.format)) {}

  Result<void> connect(const ClientOptions& options) {
    const TimeNs until =
        RealClock::instance().now() + static_cast<TimeNs>(options.connect_timeout_s * 1e9);
    auto connection = ClientConnection::connect_websocket(url_, codec_->path(), options, until);
    if (!connection) return connection.error();
    connection_ = *std::move(connection);
    return {};
  }

  Result<StreamInfo> open(const OpenOptions& options) override {
    if (const auto sent = write(codec_->open(options)); !sent) return sent.error();
    auto info = read<StreamInfo>("opened");
    if (info) first_unanswered_ = info->next_sequence;
    return info;
  }

  Result<StreamAnswer> step(const StreamStep& step) override {
    if (const auto sent = send(step); !sent) return sent.error();
    return receive();
  }

  Result<void> send(const StreamStep& step) override {
    if (unanswered_ == 0) first_unanswered_ = step.sequence;
    auto sent = write(codec_->step(step));
    if (sent) ++unanswered_;
    return sent;
  }

  Result<StreamAnswer> receive() override {
    auto answer = read<StreamAnswer>("answer");
    if (answer) first_unanswered_ = answer->sequence + 1;
    return answer;
  }

  Result<SessionSummary> close() override {
    if (const auto sent = write(codec_->close()); !sent) return sent.error();
    auto summary = read<SessionSummary>("closed");
    if (!summary) return summary;
    // The answer is in hand: how the connection ends is of no account any more.
    (void)connection_.write(writer_.frame(websocket::Opcode::close, {"\x03\xe8", 2}), due());
    connection_.close();
    return summary;
  }

 private:
  TimeNs due() const { return RealClock::instance().now() + timeout_ns_; }

  Error connection_lost(const std::string& why) {
    connection_.close();
    const std::string what = unanswered_ > 0
                                 ? fmt::format("step {} had not been answered", first_unanswered_)
                                 : std::string("every step sent had been answered");
    return lost(fmt::format("the connection to {} is lost: {}; {}", url_, why, what));
  }

  Result<void> write(std::string_view payload) {
    if (!connection_.is_open()) return connection_lost("it is closed");
    const auto sent = connection_.write(writer_.frame(codec_->opcode(), payload), due());
    if (!sent) return connection_lost(sent.error().message);
    return {};
  }

  /// The payload of the next frame of the protocol; what WebSockets ask of a peer is done
  /// meanwhile.
  Result<std::string_view> read_frame() {
    const TimeNs until = due();
    connection_.input().consume(std::exchange(consumed_, 0));
    for (;;) {
      const auto step = reader_.next(connection_.input().view());
      if (!step) return step.error();
      if (step->consumed == 0) {
        if (const auto more = connection_.read_more(until); !more) return more.error();
        continue;
      }
      if (step->message && (step->message->opcode == websocket::Opcode::text ||
                            step->message->opcode == websocket::Opcode::binary)) {
        consumed_ = step->consumed;
        return step->message->payload;
      }
      if (step->message && step->message->opcode == websocket::Opcode::ping)
        (void)connection_.write(writer_.frame(websocket::Opcode::pong, step->message->payload),
                                until);
      if (step->message && step->message->opcode == websocket::Opcode::close) {
        const auto closing = websocket::parse_close(step->message->payload);
        (void)connection_.write(writer_.frame(websocket::Opcode::close, step->message->payload),
                                until);
        return lost(fmt::format("the server closed it ({} {})", closing.code, closing.reason));
      }
      connection_.input().consume(step->consumed);
    }
  }

  /// The next frame, which must be of one kind, or the error that it is.
  template <class Frame>
  Result<Frame> read(const char* kind) {
    if (!connection_.is_open()) return connection_lost("it is closed");
    const auto payload = read_frame();
    if (!payload) return connection_lost(payload.error().message);
    auto frame = codec_->parse(*payload);
    if (!frame) return connection_lost(frame.error().message);
    if (unanswered_ > 0) --unanswered_;
    if (auto* refusal = std::get_if<Refusal>(&*frame)) {
      if (refusal->sequence) first_unanswered_ = *refusal->sequence + 1;
      return std::move(refusal->error);
    }
    if (auto* wanted = std::get_if<Frame>(&*frame)) return std::move(*wanted);
    return connection_lost(fmt::format("the server's frame is no '{}'", kind));
  }

  std::string url_;
  TimeNs timeout_ns_;
  std::unique_ptr<FrameCodec> codec_;
  ClientConnection connection_;
  websocket::Writer writer_;
  websocket::Reader reader_;
  std::size_t consumed_ = 0;  // of the input, by the frame that was handed out last
  std::int64_t unanswered_ = 0;
  std::int64_t first_unanswered_ = 0;
};

}  // namespace

Result<std::unique_ptr<StreamClient>> StreamClient::connect(const std::string& url,
                                                            const ClientOptions& options) {
  auto client = std::make_unique<StreamClientImpl>(url, options);
  if (const auto connected = client->connect(options); !connected) return connected.error();
  return std::unique_ptr<StreamClient>(std::move(client));
}

}  // namespace cortex
