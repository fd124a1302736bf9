#include <fmt/format.h>
#include <simdjson.h>
#include <unistd.h>

#include <filesystem>
#include <utility>

#include "client/connection.h"
#include "client/frame_codec.h"
#include "client/websocket.h"
#include "load_echo.h"
#include "load_socket_port.h"
#include "load_target.h"
#include "load_wire.h"

namespace cortex {
namespace {

constexpr TimeNs kPatience = 30'000'000'000;
constexpr double kPatienceS = 30;

TimeNs patience() { return RealClock::instance().now() + kPatience; }

ClientOptions client_options(const LoadOptions& options) {
  return {.api_key = options.api_key, .tls_ca_file = options.tls_ca_file, .timeout_s = kPatienceS};
}

LoadFacts ask_facts(const LoadOptions& options) {
  const auto answer = http_get(options.url, "/v1/model", client_options(options)).value_or_throw();
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  if (answer.status != 200 || parser.parse(answer.body).get(root))
    throw Exception{{ErrorCode::unavailable,
                     fmt::format("{}/v1/model: the server answered {}: {}", options.url,
                                 answer.status, answer.body.substr(0, 200)),
                     "url"}};
  LoadFacts facts;
  const auto text = [&](const char* key) {
    std::string_view value;
    return root[key].get(value) ? std::string() : std::string(value);
  };
  const auto whole = [&](const char* key) {
    std::int64_t value = 0;
    return root[key].get(value) ? 0 : static_cast<int>(value);
  };
  const auto count = [&](const char* key) {
    simdjson::dom::array values;
    return root[key].get(values) ? 0 : static_cast<int>(values.size());
  };
  facts.name = text("preset");
  facts.kind = text("kind");
  facts.digest = text("digest");
  if (root["step_ms"].get(facts.step_ms)) facts.step_ms = 0;
  facts.bins_per_step = std::max(1, whole("bins_per_step"));
  facts.units = facts.kind == "stream" ? count("units") : whole("max_neurons");
  facts.bins = whole("max_bins");
  facts.max_events = whole("max_events");
  facts.outputs = count("outputs");
  return facts;
}

/// The server's reply to an open frame.
Result<ServerFrame> open_session(ClientConnection& connection, FrameCodec& codec,
                                 const OpenOptions& options) {
  websocket::Writer writer;
  websocket::Reader reader;
  const TimeNs until = patience();
  if (auto sent = connection.write(writer.frame(codec.opcode(), codec.open(options)), until); !sent)
    return sent.error();
  for (;;) {
    const auto step = reader.next(connection.input().view());
    if (!step) return step.error();
    if (step->message && step->message->opcode == codec.opcode()) {
      auto frame = codec.parse(step->message->payload);
      connection.input().consume(step->consumed);
      return frame;
    }
    connection.input().consume(step->consumed);
    if (step->consumed == 0)
      if (const auto more = connection.read_more(until); !more) return more.error();
  }
}

class ServerTarget final : public LoadTarget {
 public:
  explicit ServerTarget(const LoadOptions& options) : options_(options) {
    address_ = parse_url(options.url).value_or_throw();
    facts_ = ask_facts(options);
  }

  Opened open(LoadPoller& poller, LoadEvents& events, int ports) override {
    make_bodies(events);
    Opened opened;
    for (int i = 0; i < ports; ++i) {
      auto port = open_one(poller, opened);
      if (port) opened.ports.push_back(std::move(port));
    }
    return opened;
  }

  Opened open_echo(LoadPoller& poller, LoadEvents& events, int ports) override {
    make_bodies(events);
    Opened probe;
    auto first = open_one(poller, probe);
    if (!first) throw Exception{{ErrorCode::resource_exhausted, probe.refused_because, ""}};
    learn_bytes(poller, events, *first);
    const std::string path = address_.is_unix() ? (std::filesystem::temp_directory_path() /
                                                   fmt::format("cortex-echo-{}.sock", ::getpid()))
                                                      .string()
                                                : "";
    echo_ = EchoServer::start(path, request_.size(), reply_).value_or_throw();
    Opened opened;
    for (int i = 0; i < ports; ++i)
      opened.ports.push_back(std::make_unique<SocketPort>(
          poller,
          ClientSocket::connect(echo_->address(), "the echo", "", patience()).value_or_throw(),
          make_wire(), nullptr));
    return opened;
  }

 private:
  std::unique_ptr<LoadWire> make_wire() const {
    if (options_.windows && options_.wire == Wire::http) return make_http_wire(*bodies_);
    return make_frame_wire(options_);
  }
  void make_bodies(LoadEvents& events) {
    if (!bodies_ && options_.windows && options_.wire == Wire::http)
      bodies_ = std::make_unique<HttpBodies>(events, options_, address_.authority());
  }
  Result<ClientSocket> connect() const {
    return ClientSocket::connect(address_, options_.url, options_.tls_ca_file, patience());
  }

  /// Null where the server refused the session, which is noted.
  std::unique_ptr<SocketPort> open_one(LoadPoller& poller, Opened& opened) {
    if (options_.windows && options_.wire == Wire::http)
      return std::make_unique<SocketPort>(poller, connect().value_or_throw(), make_wire(),
                                          [this] { return connect(); });
    const auto codec =
        make_codec(options_.wire == Wire::binary ? FrameFormat::binary : FrameFormat::json);
    ClientConnection connection =
        ClientConnection::connect_websocket(options_.url, codec->path(), client_options(options_),
                                            patience())
            .value_or_throw();
    if (!options_.windows) {
      OpenOptions open;
      open.deadline_ms = options_.deadline();
      // An unpaced session keeps to no rate that could be reserved.
      const bool is_paced = options_.arrivals != Arrivals::closed;
      if (options_.best_effort || !is_paced) open.best_effort = true;
      if (is_paced) open.rate_hz = options_.rate_hz;
      const auto reply = open_session(connection, *codec, open);
      if (!reply) throw Exception{reply.error()};
      if (const auto* refusal = std::get_if<Refusal>(&*reply)) {
        ++opened.refused[to_string(refusal->error.code)];
        if (opened.refused_because.empty()) opened.refused_because = refusal->error.message;
        return nullptr;
      }
    }
    return std::make_unique<SocketPort>(poller, connection.take_socket(), make_wire(), nullptr);
  }

  /// One request and its reply, byte by byte.
  void learn_bytes(LoadPoller& poller, LoadEvents& events, SocketPort& port) {
    bool answered = false;
    std::string failed;
    port.on_reply = [&](const LoadReply& reply) {
      answered = true;
      failed = reply.error.empty() ? "" : reply.error + ": " + reply.message;
    };
    port.on_lost = [&](const std::string& why) {
      answered = true;
      failed = why;
    };
    port.keep_bytes();
    const auto step = options_.windows ? events.window(0) : events.step(0, 0);
    port.send({.sequence = 0, .events = step, .window = 0});
    const TimeNs until = patience();
    while (!answered && RealClock::instance().now() < until) poller.wait(until);
    if (!answered) failed = "no answer within 30 s";
    if (!failed.empty())
      throw Exception{
          {ErrorCode::unavailable, "the request that the echo learns from: " + failed, "echo"}};
    request_ = port.last_request();
    reply_ = port.last_reply();
    port.close();
    port.on_reply = nullptr;
    port.on_lost = nullptr;
  }

  LoadOptions options_;
  Address address_;
  std::unique_ptr<HttpBodies> bodies_;
  std::string request_;
  std::string reply_;
  std::unique_ptr<EchoServer> echo_;
};

}  // namespace

std::unique_ptr<LoadTarget> make_server_target(const LoadOptions& options) {
  return std::make_unique<ServerTarget>(options);
}

}  // namespace cortex
