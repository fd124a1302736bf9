// Every body, split where a header says, is either a request with sane values or an error. The
// first bytes of an input are that header, up to a line's end.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "serve/codec_oip.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static cortex::OipParser parser;
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const auto line = std::min(all.find('\n'), all.size());
  const std::string_view body = all.substr(std::min(line + 1, all.size()));
  const auto request = parser.infer(body, all.substr(0, line));
  if (!request) {
    require(!request.error().message.empty());
    require(!cortex::oip_error(request.error().message).empty());
    return 0;
  }
  require(request->gap >= 0 && request->session.first_step >= 0);
  require(!request->deadline_ms || *request->deadline_ms > 0);
  require(request->events.size() <= size);
  for (const cortex::Event& e : request->events) require(e.unit >= 0 && e.value >= 0 && e.bin >= 0);
  return 0;
}
