// Every byte string is either a frame with sane values or an error that says what is wrong, and the
// answers that the server writes to it are whole frames.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>

#include "serve/codec_binary.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static cortex::BinaryParser parser;
  static std::string out;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  const auto frame = parser.stream(bytes);
  if (!frame) {
    require(!frame.error().message.empty());
    cortex::binary_frames::error(out, cortex::ApiError(frame.error()), parser.last_sequence());
    std::uint16_t status = 0;
    std::memcpy(&status, out.data() + 2, sizeof status);
    require(status == 400 || status == 413);
    return 0;
  }
  using Kind = cortex::StreamFrame::Kind;
  if (frame->kind == Kind::step) {
    require(size == 32 + 16 * frame->step.events.size());
    require(frame->step.sequence >= 0 && frame->step.gap >= 0);
    require(!frame->step.deadline_ms || *frame->step.deadline_ms > 0);
    for (const cortex::Event& e : frame->step.events)
      require(e.unit >= 0 && e.value >= 0 && e.bin >= 0);
  }
  if (frame->kind == Kind::open) {
    require(frame->open.options.first_step >= 0);
    require(frame->open.options.step_rate_hz >= 0);
    require(frame->open.options.unit_ids.size() <= size);
  }
  return 0;
}
