#include "client/frame_codec.h"

namespace cortex {

ErrorCode error_code_of(std::string_view name, int status) {
  for (int i = 0; i <= static_cast<int>(ErrorCode::internal); ++i)
    if (name == to_string(static_cast<ErrorCode>(i))) return static_cast<ErrorCode>(i);
  // Of a status alone, e.g. unauthorized or method_not_allowed.
  return status >= 500 ? ErrorCode::unavailable : ErrorCode::invalid_argument;
}

std::unique_ptr<FrameCodec> make_codec(FrameFormat format) {
  return format == FrameFormat::binary ? make_binary_codec() : make_json_codec();
}

}  // namespace cortex
