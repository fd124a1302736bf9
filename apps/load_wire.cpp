#include "load_wire.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <utility>

#include "client/frame_codec.h"
#include "client/http_message.h"
#include "core/json_writer.h"

namespace cortex {
namespace {

Error bad_reply(std::string why) { return {ErrorCode::corrupt_data, std::move(why), ""}; }

class FrameWire final : public LoadWire {
 public:
  explicit FrameWire(const LoadOptions& options)
      : codec_(make_codec(options.wire == Wire::binary ? FrameFormat::binary : FrameFormat::json)),
        deadline_ms_(options.windows ? options.deadline() : std::nullopt),
        best_effort_(options.windows && options.best_effort) {}

  std::string_view request(const LoadRequest& request) override {
    StreamStep step{.sequence = request.sequence, .events = request.events};
    // A session said these when it opened.
    step.deadline_ms = deadline_ms_;
    if (best_effort_) step.best_effort = true;
    return writer_.frame(codec_->opcode(), codec_->step(step));
  }

  std::string_view farewell() override { return writer_.frame(codec_->opcode(), codec_->close()); }

  Result<Read> read(std::string_view bytes) override {
    const auto step = reader_.next(bytes);
    if (!step) return step.error();
    Read result{.consumed = step->consumed};
    if (!step->message) return result;
    switch (step->message->opcode) {
      case websocket::Opcode::ping:
        result.to_send = writer_.frame(websocket::Opcode::pong, step->message->payload);
        return result;
      case websocket::Opcode::pong:
        return result;
      case websocket::Opcode::close: {
        const auto closing = websocket::parse_close(step->message->payload);
        return bad_reply(fmt::format("closed by the server ({} {})", closing.code, closing.reason));
      }
      default:
        break;
    }
    auto frame = codec_->parse(step->message->payload);
    if (!frame) return frame.error();
    LoadReply reply;
    if (const auto* refusal = std::get_if<Refusal>(&*frame)) {
      reply.error = to_string(refusal->error.code);
      reply.message = refusal->error.message;
      reply.sequence = refusal->sequence.value_or(-1);
    } else if (auto* answer = std::get_if<StreamAnswer>(&*frame)) {
      behavior_ = std::move(answer->behavior);
      reply.sequence = answer->sequence;
      reply.behavior = behavior_;
      reply.status = answer->status;
      reply.latency_ms = answer->latency_ms;
    } else {
      return result;  // `closed`
    }
    result.reply = std::move(reply);
    return result;
  }

 private:
  std::unique_ptr<FrameCodec> codec_;
  std::optional<double> deadline_ms_;
  bool best_effort_;
  websocket::Writer writer_;
  websocket::Reader reader_;
  std::vector<float> behavior_;
};

class HttpWire final : public LoadWire {
 public:
  explicit HttpWire(const HttpBodies& bodies) : bodies_(bodies) {}

  std::string_view request(const LoadRequest& request) override {
    return bodies_.request(request.window);
  }

  Result<Read> read(std::string_view bytes) override {
    const auto http = parse_http_reply(bytes);
    if (!http) return http.error();
    Read result;
    if (!http->has_value()) return result;
    const HttpReply& answer = **http;
    result.consumed = answer.size;
    result.reconnect = !answer.keep_alive;
    simdjson::dom::element root;
    if (parser_.parse(answer.body.data(), answer.body.size()).get(root))
      return bad_reply(fmt::format("the answer ({}) is not JSON", answer.status));
    LoadReply reply;
    if (answer.status != 200) {
      std::string_view code;
      std::string_view message;
      if (root["error"]["code"].get(code)) code = "unknown";
      if (!root["error"]["message"].get(message)) reply.message = message;
      reply.error = code;
    } else {
      if (const auto ok = take_answer(root, reply); !ok) return ok.error();
    }
    result.reply = std::move(reply);
    return result;
  }

 private:
  Result<void> take_answer(simdjson::dom::element root, LoadReply& reply) {
    simdjson::dom::array values;
    if (root["behavior"].get(values)) return bad_reply("the answer has no behavior");
    behavior_.clear();
    for (const auto value : values) {
      double d = 0;
      if (value.get(d)) return bad_reply("behavior holds something that is not a number");
      behavior_.push_back(static_cast<float>(d));
    }
    reply.behavior = behavior_;
    if (root["latency_ms"].get(reply.latency_ms)) reply.latency_ms = 0;
    return {};
  }

  const HttpBodies& bodies_;
  simdjson::dom::parser parser_;
  std::vector<float> behavior_;
};

}  // namespace

std::unique_ptr<LoadWire> make_frame_wire(const LoadOptions& options) {
  return std::make_unique<FrameWire>(options);
}

HttpBodies::HttpBodies(LoadEvents& events, const LoadOptions& options,
                       const std::string& authority) {
  std::vector<std::string> bodies;
  std::size_t longest = 0;
  for (int w = 0; w < LoadEvents::kWindows; ++w) {
    JsonWriter json;
    json.begin_object().key("request_id").value(fmt::format("load-{:02}", w));
    json.key("session_id").value("load");
    if (const auto deadline = options.deadline()) json.key("deadline_ms").value(*deadline);
    if (options.best_effort) json.key("best_effort").value(true);
    json.key("events").begin_array();
    for (const Event& e : events.window(w))
      json.begin_object()
          .key("neuron_id")
          .value(e.unit)
          .key("time_bin")
          .value(e.bin)
          .key("value")
          .value(e.value)
          .end_object();
    json.end_array().end_object();
    bodies.push_back(json.text());
    longest = std::max(longest, bodies.back().size());
  }
  for (std::string& body : bodies) {
    body.resize(longest, ' ');
    requests_.push_back(http_request("POST", "/decode", authority, options.api_key, body, true));
  }
}

std::unique_ptr<LoadWire> make_http_wire(const HttpBodies& bodies) {
  return std::make_unique<HttpWire>(bodies);
}

}  // namespace cortex
