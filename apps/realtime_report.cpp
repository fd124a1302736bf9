#include "realtime_report.h"

#include "core/realtime.h"

namespace cortex {

std::string realtime_lines(std::span<const RealtimeGrant> grants) {
  std::string text;
  for (const RealtimeGrant& grant : grants) text += to_line(grant) + "\n";
  return text;
}

void write_realtime(JsonWriter& json, std::span<const RealtimeGrant> grants) {
  json.key("realtime");
  if (grants.empty()) {
    json.null();
    return;
  }
  json.begin_array();
  for (const RealtimeGrant& grant : grants) {
    json.begin_object().key("what").value(grant.what).key("granted").value(grant.granted);
    json.key("detail").value(grant.detail).end_object();
  }
  json.end_array();
}

}  // namespace cortex
