#include "serve/otlp_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>

#include "core/json_writer.h"

namespace cortex {
namespace {

constexpr int kInternal = 1;
constexpr int kServer = 2;
constexpr int kStatusError = 2;

class SpanWriter {
 public:
  SpanWriter(JsonWriter& w, std::int64_t epoch_ns) : w_(w), epoch_ns_(epoch_ns) {}

  void begin(const TraceContext& context, const SpanId& parent, std::string_view name, int kind,
             std::int64_t start_ns, std::int64_t end_ns) {
    w_.begin_object();
    w_.key("traceId").value(hex(context.trace)).key("spanId").value(hex(context.span));
    if (parent != SpanId{}) w_.key("parentSpanId").value(hex(parent));
    w_.key("name").value(name).key("kind").value(kind);
    // 64-bit numbers are strings in JSON.
    w_.key("startTimeUnixNano").value(fmt::format("{}", start_ns + epoch_ns_));
    w_.key("endTimeUnixNano").value(fmt::format("{}", std::max(start_ns, end_ns) + epoch_ns_));
    w_.key("attributes").begin_array();
  }
  void attribute(std::string_view key, std::string_view text) {
    if (text.empty()) return;
    w_.begin_object().key("key").value(key).key("value").begin_object();
    w_.key("stringValue").value(text).end_object().end_object();
  }
  void attribute(std::string_view key, std::int64_t n) {
    w_.begin_object().key("key").value(key).key("value").begin_object();
    w_.key("intValue").value(fmt::format("{}", n)).end_object().end_object();
  }
  void end(std::span<const TraceContext> links = {}, bool failed = false) {
    w_.end_array();
    if (!links.empty()) {
      w_.key("links").begin_array();
      for (const TraceContext& link : links)
        w_.begin_object()
            .key("traceId")
            .value(hex(link.trace))
            .key("spanId")
            .value(hex(link.span))
            .end_object();
      w_.end_array();
    }
    if (failed) w_.key("status").begin_object().key("code").value(kStatusError).end_object();
    w_.end_object();
  }

 private:
  JsonWriter& w_;
  const std::int64_t epoch_ns_;
};

void write(SpanWriter& spans, const RequestRecord& r, const std::function<SpanId()>& new_span) {
  const std::int64_t last =
      std::max({r.arrived_ns, r.submitted_ns, r.computed_ns, r.finished_ns, r.sent_ns});
  spans.begin(r.context, r.parent, r.route, kServer, r.arrived_ns, last);
  spans.attribute("http.route", r.route);
  if (r.status != 0) spans.attribute("http.response.status_code", std::int64_t{r.status});
  spans.attribute("cortex.model", r.model);
  spans.attribute("cortex.tenant", r.tenant);
  spans.attribute("cortex.request_id", r.request_id);
  if (r.sequence >= 0) spans.attribute("cortex.step", r.sequence);
  spans.end({}, r.status >= 500);

  const auto part = [&](std::string_view name, std::int64_t start, std::int64_t end,
                        bool of_batch = false) {
    if (start == 0 || end == 0) return;
    spans.begin({r.context.trace, new_span(), true}, r.context.span, name, kInternal, start, end);
    if (of_batch && r.batch != 0) {
      spans.attribute("cortex.batch.id", static_cast<std::int64_t>(r.batch));
      spans.end({&r.batch_span, 1});
    } else {
      spans.end();
    }
  };
  part("ingress", r.arrived_ns, r.submitted_ns);
  part("queue", r.submitted_ns, r.started_ns);
  part("batch", r.started_ns, r.forward_ns, true);
  part("compute", r.forward_ns, r.computed_ns);
  part("egress", r.computed_ns, r.sent_ns);
}

void write(SpanWriter& spans, const BatchRecord& b, const std::function<SpanId()>&) {
  spans.begin(b.context, {}, "engine batch", kInternal, b.started_ns, b.computed_ns);
  spans.attribute("cortex.model", b.model);
  spans.attribute("cortex.batch.id", static_cast<std::int64_t>(b.batch));
  spans.attribute("cortex.batch.size", std::int64_t{b.size});
  spans.end(b.links);
}

}  // namespace

std::string otlp_json(std::span<const TraceRecord> records, std::int64_t epoch_ns,
                      const std::function<SpanId()>& new_span) {
  JsonWriter w;
  SpanWriter spans(w, epoch_ns);
  w.begin_object().key("resourceSpans").begin_array().begin_object();
  w.key("resource").begin_object().key("attributes").begin_array();
  spans.attribute("service.name", "cortex");
  w.end_array().end_object();
  w.key("scopeSpans").begin_array().begin_object();
  w.key("scope").begin_object().key("name").value("cortex.serve").end_object();
  w.key("spans").begin_array();
  for (const TraceRecord& record : records)
    std::visit([&](const auto& r) { write(spans, r, new_span); }, record);
  w.end_array().end_object().end_array().end_object().end_array().end_object();
  return w.text();
}

}  // namespace cortex
