#include "serve/stream_frames.h"

#include <fmt/format.h>

#include "core/json_writer.h"
#include "serve/units_of_time.h"

namespace cortex::json_frames {
namespace {

/// One for the network thread: its room is used again.
JsonWriter& writer() {
  thread_local JsonWriter w;
  w.clear();
  return w;
}

}  // namespace

void answer(std::string& out, const StepReply& reply) {
  JsonWriter& w = writer();
  w.begin_object().key("sequence_number").value(reply.sequence).key("behavior");
  if (reply.status == StepStatus::refused) {
    w.null();
  } else {
    w.begin_array();
    for (const float v : reply.behavior) w.value(v);
    w.end_array();
  }
  w.key("latency_ms").value(to_ms(reply.latency_ns));
  w.key("status").value(to_string(reply.status));
  w.key("queue_wait_ms").value(to_ms(reply.queue_wait_ns));
  w.key("inference_ms").value(to_ms(reply.inference_ns));
  if (reply.dropped_events) w.key("dropped_events").value(*reply.dropped_events);
  w.end_object();
  out = w.text();
}

void opened(std::string& out, const OpenedReply& reply) {
  const ModelInfo& m = reply.model;
  const bool is_stream = m.kind == "stream";
  JsonWriter& w = writer();
  w.begin_object().key("opened").begin_object();
  w.key("session_id").value(fmt::format("{}", reply.session)).key("kind").value(m.kind);
  w.key("bin_ms").value(m.bin_ms);
  if (is_stream) {
    w.key("step_ms").value(m.step_ms).key("bins_per_step").value(m.bins_per_step);
    w.key("sequence_number").value(reply.next_step);
    w.key("units").value(static_cast<std::int64_t>(reply.units));
    w.key("target_offset_ms").value(m.target_offset_ms);
    w.key("window_steps").value(m.window_steps).key("context_steps").value(m.context_steps);
    w.key("rate_hz").value(reply.step_rate_hz);
  } else {
    w.key("max_bins").value(m.max_bins).key("units").value(m.max_neurons);
  }
  w.key("max_events").value(m.max_events).key("max_queued_steps").value(reply.max_queued_steps);
  w.key("outputs").begin_array();
  for (const OutputInfo& output : m.outputs)
    w.begin_object().key("name").value(output.name).key("unit").value(output.unit).end_object();
  w.end_array();
  w.key("model").begin_object().key("name").value(reply.name).key("preset").value(m.preset);
  w.key("precision").value(m.precision).key("digest").value(m.digest).end_object();
  w.end_object().end_object();
  out = w.text();
}

void closed(std::string& out, const SessionSummary& summary) {
  JsonWriter& w = writer();
  w.begin_object().key("closed").begin_object();
  w.key("steps").value(summary.steps).key("late").value(summary.late);
  w.key("refused").value(summary.refused);
  w.key("misses").value(summary.late + summary.refused);
  w.key("dropped_events").value(summary.dropped_events);
  w.key("latency_us").begin_object();
  w.key("p50").value(summary.p50_us).key("p99").value(summary.p99_us);
  w.key("p999").value(summary.p999_us).key("max").value(summary.max_us);
  w.end_object().end_object().end_object();
  out = w.text();
}

void error(std::string& out, const ApiError& error, std::optional<std::int64_t> sequence) {
  out = socket_error(error, sequence);
}

}  // namespace cortex::json_frames
