// Whatever a server sends, a client reads nothing beyond it and ends with a frame or an error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "client/frame_codec.h"
#include "client/http_message.h"
#include "client/websocket.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void parse(cortex::FrameCodec& codec, std::string_view frame) {
  const auto parsed = codec.parse(frame);
  if (!parsed) require(!parsed.error().message.empty());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const auto json = cortex::make_json_codec();
  static const auto binary = cortex::make_binary_codec();
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  parse(*json, bytes);
  parse(*binary, bytes);
  for (const bool is_end : {false, true}) {
    const auto reply = cortex::parse_http_reply(bytes, is_end);
    if (reply && reply->has_value()) require((*reply)->size <= size);
  }
  cortex::websocket::Reader reader(1 << 20);
  for (std::string_view rest = bytes; !rest.empty();) {
    const auto step = reader.next(rest);
    if (!step || step->consumed == 0) break;
    require(step->consumed <= rest.size());
    rest.remove_prefix(step->consumed);
  }
  return 0;
}
