#include <fmt/format.h>
#include <simdjson.h>

#include <utility>

#include "client/frame_codec.h"
#include "core/json_writer.h"

namespace cortex {
namespace {

using simdjson::dom::element;

/// A field's value, or `fallback` where it is absent or of another type.
template <class T>
T get_or(element e, std::string_view name, T fallback) {
  T value{};
  return e[name].get(value) ? std::move(fallback) : value;
}
std::string text_of(element e, std::string_view name) {
  return std::string(get_or<std::string_view>(e, name, ""));
}
std::int64_t int64_of(element e, std::string_view name) { return get_or<std::int64_t>(e, name, 0); }
int int_of(element e, std::string_view name) { return static_cast<int>(int64_of(e, name)); }
double double_of(element e, std::string_view name) { return get_or<double>(e, name, 0); }

StreamInfo opened_of(element e) {
  StreamInfo info;
  info.session_id = text_of(e, "session_id");
  info.kind = text_of(e, "kind");
  info.bin_ms = double_of(e, "bin_ms");
  info.step_ms = double_of(e, "step_ms");
  info.bins_per_step = int_of(e, "bins_per_step");
  info.units = int_of(e, "units");
  info.max_events = int_of(e, "max_events");
  info.max_queued_steps = int_of(e, "max_queued_steps");
  info.window_steps = int_of(e, "window_steps");
  info.context_steps = int_of(e, "context_steps");
  info.next_sequence = int64_of(e, "sequence_number");
  info.rate_hz = double_of(e, "rate_hz");
  info.target_offset_ms = double_of(e, "target_offset_ms");
  element model;
  if (!e["model"].get(model)) {
    info.model = text_of(model, "name");
    info.preset = text_of(model, "preset");
    info.precision = text_of(model, "precision");
    info.digest = text_of(model, "digest");
  }
  simdjson::dom::array outputs;
  if (!e["outputs"].get(outputs))
    for (const element output : outputs)
      info.outputs.push_back({text_of(output, "name"), text_of(output, "unit")});
  return info;
}

SessionSummary closed_of(element e) {
  SessionSummary summary;
  summary.steps = int64_of(e, "steps");
  summary.late = int64_of(e, "late");
  summary.refused = int64_of(e, "refused");
  summary.dropped_events = int64_of(e, "dropped_events");
  element latency;
  if (!e["latency_us"].get(latency)) {
    summary.p50_us = double_of(latency, "p50");
    summary.p99_us = double_of(latency, "p99");
    summary.p999_us = double_of(latency, "p999");
    summary.max_us = double_of(latency, "max");
  }
  return summary;
}

Refusal refusal_of(element root, element error) {
  Refusal refusal;
  refusal.status = int_of(error, "status");
  refusal.error = {error_code_of(get_or<std::string_view>(error, "code", ""), refusal.status),
                   text_of(error, "message"), text_of(error, "field")};
  std::int64_t n = 0;
  if (!root["sequence_number"].get(n)) refusal.sequence = n;
  if (!error["expected"].get(n)) refusal.expected = n;
  return refusal;
}

class JsonCodec final : public FrameCodec {
 public:
  const char* path() const override { return "/stream"; }
  websocket::Opcode opcode() const override { return websocket::Opcode::text; }

  std::string_view open(const OpenOptions& options) override {
    writer_.clear();
    writer_.begin_object().key("open").begin_object();
    const SessionOptions& s = options.session;
    if (!s.unit_ids.empty()) {
      writer_.key("units").begin_array();
      for (const std::string& id : s.unit_ids) writer_.value(id);
      writer_.end_array();
    }
    if (s.allow_missing_units) writer_.key("allow_missing_units").value(true);
    if (s.first_step != 0) writer_.key("first_step").value(s.first_step);
    if (s.drop_out_of_step) writer_.key("drop_out_of_step").value(true);
    if (options.deadline_ms) writer_.key("deadline_ms").value(*options.deadline_ms);
    if (options.best_effort) writer_.key("best_effort").value(*options.best_effort);
    if (options.rate_hz > 0) writer_.key("rate_hz").value(options.rate_hz);
    if (!options.model.empty()) writer_.key("model").value(options.model);
    return writer_.end_object().end_object().text();
  }

  std::string_view step(const StreamStep& step) override {
    writer_.clear();
    writer_.begin_object().key("sequence_number").value(step.sequence);
    writer_.key("events").begin_array();
    for (const Event& e : step.events) {
      writer_.begin_object().key("neuron_id").value(e.unit).key("time_bin").value(e.bin);
      writer_.key("value").value(e.value).end_object();
    }
    writer_.end_array();
    if (step.gap != 0) writer_.key("gap").value(step.gap);
    if (step.deadline_ms) writer_.key("deadline_ms").value(*step.deadline_ms);
    if (step.best_effort) writer_.key("best_effort").value(*step.best_effort);
    return writer_.end_object().text();
  }

  std::string_view close() override { return R"({"close":true})"; }

  Result<ServerFrame> parse(std::string_view frame) override {
    element root;
    if (parser_.parse(frame.data(), frame.size()).get(root))
      return Error{ErrorCode::corrupt_data, "the server's frame is not JSON", ""};
    element part;
    if (!root["error"].get(part)) return ServerFrame(refusal_of(root, part));
    if (!root["opened"].get(part)) return ServerFrame(opened_of(part));
    if (!root["closed"].get(part)) return ServerFrame(closed_of(part));
    StreamAnswer answer;
    if (root["sequence_number"].get(answer.sequence))
      return Error{ErrorCode::corrupt_data, "the server's frame has no sequence_number", ""};
    simdjson::dom::array behavior;
    if (!root["behavior"].get(behavior))
      for (const element v : behavior) {
        double d = 0;
        if (v.get(d))
          return Error{ErrorCode::corrupt_data, "behavior holds something that is not a number",
                       "behavior"};
        answer.behavior.push_back(static_cast<float>(d));
      }
    const std::string_view status = get_or<std::string_view>(root, "status", "");
    answer.status = status == "late"      ? StepStatus::late
                    : status == "refused" ? StepStatus::refused
                                          : StepStatus::fresh;
    answer.latency_ms = double_of(root, "latency_ms");
    answer.queue_wait_ms = double_of(root, "queue_wait_ms");
    answer.inference_ms = double_of(root, "inference_ms");
    answer.dropped_events = int64_of(root, "dropped_events");
    return ServerFrame(std::move(answer));
  }

 private:
  JsonWriter writer_;
  simdjson::dom::parser parser_;
};

}  // namespace

std::unique_ptr<FrameCodec> make_json_codec() { return std::make_unique<JsonCodec>(); }

}  // namespace cortex
