#include "replay_decoder.h"

#include <cortex/client.h>
#include <simdjson.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "core/clock.h"

namespace cortex {
namespace {

void describe(const ModelInfo& model, DecoderInfo& info) {
  info.model = model.preset;
  info.precision = model.precision;
  info.bin_ms = model.bin_ms;
  info.step_ms = model.step_ms;
  info.target_offset_ms = model.target_offset_ms;
  info.unit_ids = model.unit_ids;
  for (const OutputInfo& output : model.outputs) {
    info.output_names.push_back(output.name);
    info.output_units.push_back(output.unit);
  }
}

Result<void> check_kind(const ModelInfo& model, const std::string& source) {
  if (model.kind == "stream") return {};
  return Error{ErrorCode::unsupported,
               source + ": a replay is a stream; this is a " + model.kind + " model", "model"};
}

class EngineDecoder final : public ReplayDecoder {
 public:
  EngineDecoder(std::unique_ptr<Engine> engine, SessionId session)
      : engine_(std::move(engine)), session_(session) {
    describe(engine_->model(), info_);
  }

  const DecoderInfo& info() const override { return info_; }

  Result<Answer> step(std::int64_t sequence, std::span<const Event> events,
                      std::int64_t deadline_ns) override {
    auto answer = engine_->step({.session = session_,
                                 .sequence = sequence,
                                 .events = events,
                                 .deadline_ns = deadline_ns,
                                 .best_effort = true});
    if (!answer) return answer.error();
    behavior_ = std::move(answer->behavior);
    return Answer{behavior_};
  }

  Result<void> close() override {
    if (auto closed = engine_->close_session(session_); !closed) return closed.error();
    return {};
  }

  std::span<const RealtimeGrant> realtime() const override { return engine_->realtime(); }

 private:
  std::unique_ptr<Engine> engine_;
  SessionId session_;
  DecoderInfo info_;
  std::vector<float> behavior_;
};

class SocketDecoder final : public ReplayDecoder {
 public:
  SocketDecoder(std::unique_ptr<StreamClient> client, DecoderInfo info)
      : client_(std::move(client)), info_(std::move(info)) {}

  const DecoderInfo& info() const override { return info_; }

  Result<Answer> step(std::int64_t sequence, std::span<const Event> events,
                      std::int64_t deadline_ns) override {
    // The server counts from the frame's arrival: what is left of the deadline goes with it.
    constexpr double kLeastMs = 0.001;
    const double left_ms = static_cast<double>(deadline_ns - RealClock::instance().now()) * 1e-6;
    auto answer = client_->step(
        {.sequence = sequence, .events = events, .deadline_ms = std::max(kLeastMs, left_ms)});
    if (!answer) return answer.error();
    behavior_ = std::move(answer->behavior);
    return Answer{behavior_};
  }

  Result<void> close() override {
    if (auto closed = client_->close(); !closed) return closed.error();
    return {};
  }

 private:
  std::unique_ptr<StreamClient> client_;
  DecoderInfo info_;
  std::vector<float> behavior_;
};

/// The order of units that a session has by default; the answer that opens it only counts them.
Result<std::vector<std::string>> served_units(const std::string& url,
                                              const ClientOptions& options) {
  auto answer = http_get(url, "/v1/model", options);
  if (!answer) return answer.error();
  const auto bad = [&](const std::string& what) {
    return Error{ErrorCode::unavailable, url + "/v1/model: " + what, "url"};
  };
  simdjson::dom::parser parser;
  simdjson::dom::element root;
  const bool is_json = !parser.parse(answer->body).get(root);
  if (answer->status != 200) {
    std::string_view message;
    if (!is_json || root["error"]["message"].get(message)) message = "";
    return bad("the server answered " + std::to_string(answer->status) + " " +
               std::string(message));
  }
  simdjson::dom::array ids;
  if (!is_json || root["units"].get(ids))
    return bad("no units: a replay is a stream, and this is no stream model");
  std::vector<std::string> units;
  for (const simdjson::dom::element id : ids) {
    std::string_view text;
    if (id.get(text)) return bad("a unit's id is not text");
    units.emplace_back(text);
  }
  return units;
}

}  // namespace

Result<std::unique_ptr<ReplayDecoder>> ReplayDecoder::connect(const std::string& url,
                                                              const std::string& api_key) {
  const ClientOptions options{.api_key = api_key};
  auto units = served_units(url, options);
  if (!units) return units.error();
  auto client = StreamClient::connect(url, options);
  if (!client) return client.error();
  auto opened = (*client)->open({.session = {}, .deadline_ms = {}, .best_effort = true});
  if (!opened) return opened.error();
  DecoderInfo info{.model = opened->preset,
                   .precision = opened->precision,
                   .bin_ms = opened->bin_ms,
                   .step_ms = opened->step_ms,
                   .target_offset_ms = opened->target_offset_ms,
                   .output_names = {},
                   .output_units = {},
                   .unit_ids = std::move(*units)};
  for (const OutputInfo& output : opened->outputs) {
    info.output_names.push_back(output.name);
    info.output_units.push_back(output.unit);
  }
  if (opened->next_sequence != 0)
    return Error{ErrorCode::unavailable, url + ": a new session does not start at step 0", "url"};
  return std::unique_ptr<ReplayDecoder>(
      std::make_unique<SocketDecoder>(std::move(*client), std::move(info)));
}

Result<std::unique_ptr<ReplayDecoder>> ReplayDecoder::load(const std::string& model_path,
                                                           bool realtime) {
  auto engine = Engine::create(
      {.model_path = model_path, .max_sessions = 1, .max_batch = 1, .realtime = realtime});
  if (!engine) return engine.error();
  if (auto ok = check_kind((*engine)->model(), model_path); !ok) return ok.error();
  // Alone on its engine, at whatever pace the model can.
  auto session = (*engine)->open_session({.best_effort = true});
  if (!session) return session.error();
  return std::unique_ptr<ReplayDecoder>(
      std::make_unique<EngineDecoder>(std::move(*engine), session->id));
}

}  // namespace cortex
