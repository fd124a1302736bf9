// Every byte string is either a request with sane values or an error that says what is wrong.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "serve/codec_json.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void check(std::span<const cortex::Event> events) {
  for (const cortex::Event& e : events) require(e.unit >= 0 && e.value >= 0 && e.bin >= 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static cortex::FrameParser parser;
  const std::string_view json(reinterpret_cast<const char*>(data), size);
  if (const auto frame = parser.decode(json)) {
    check(frame->events);
    require(!frame->deadline_ms || *frame->deadline_ms > 0);
  } else {
    require(!frame.error().message.empty());
  }
  if (const auto frame = parser.stream(json)) {
    check(frame->step.events);
    require(frame->step.sequence >= 0 && frame->step.gap >= 0);
    require(frame->open.options.first_step >= 0);
    require(!frame->step.deadline_ms || *frame->step.deadline_ms > 0);
  } else {
    require(!frame.error().message.empty());
  }
  return 0;
}
