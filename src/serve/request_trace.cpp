#include "serve/request_trace.h"

#include <cstring>
#include <utility>

namespace cortex {
namespace {

std::uint64_t seed() {
  std::random_device device;
  return (std::uint64_t{device()} << 32) ^ device();
}

}  // namespace

RequestTrace::~RequestTrace() { tracer_.queue().push(std::move(record)); }

Tracer::Tracer(bool enabled, double ratio, std::size_t capacity)
    : enabled_(enabled), ratio_(ratio), random_(seed()), queue_(enabled ? capacity : 0) {}

SpanId Tracer::new_span() {
  // Ids of zeros mean "none".
  const std::uint64_t bits = random_() | 1;
  SpanId id;
  std::memcpy(id.data(), &bits, sizeof bits);
  return id;
}

TraceContext Tracer::child_of(const TraceContext& parent) {
  return {parent.trace, new_span(), parent.sampled};
}

TraceContext Tracer::fresh() {
  TraceContext context{.sampled = true};
  const std::uint64_t halves[] = {random_(), random_() | 1};
  std::memcpy(context.trace.data(), halves, sizeof halves);
  context.span = new_span();
  return context;
}

TracePtr Tracer::begin(std::string_view route, const std::optional<TraceContext>& parent,
                       TimeNs arrived_ns) {
  if (!enabled_) return nullptr;
  if (parent ? !parent->sampled : std::uniform_real_distribution<double>(0, 1)(random_) >= ratio_)
    return nullptr;
  RequestRecord record{.context = parent ? child_of(*parent) : fresh(), .route = route};
  if (parent) record.parent = parent->span;
  record.arrived_ns = arrived_ns;
  return std::make_unique<RequestTrace>(*this, std::move(record));
}

}  // namespace cortex
