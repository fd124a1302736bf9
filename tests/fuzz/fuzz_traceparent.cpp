// What parses as a traceparent of version 00 is written back byte for byte, flags aside.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "telemetry/trace_context.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view header(reinterpret_cast<const char*>(data), size);
  const auto context = cortex::parse_traceparent(header);
  if (!context) return 0;
  const std::string written = cortex::format_traceparent(*context);
  if (written.substr(2, 51) != header.substr(2, 51)) std::abort();
  if (cortex::parse_traceparent(written) != context) std::abort();
  return 0;
}
