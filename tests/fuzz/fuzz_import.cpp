#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "import/csv.h"
#include "import/nev.h"

/// Any bytes are a Blackrock file or a table of CSV, or an error. The first byte says which.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cortex;
  if (size == 0) return 0;
  const std::span rest = std::span(data, size).subspan(1);
  const std::string_view text(reinterpret_cast<const char*>(rest.data()), rest.size());
  switch (data[0] % 4) {
    case 0:
      (void)read_nev(std::as_bytes(rest), "fuzz");
      break;
    case 1:
      (void)csv::read_events(text, "fuzz");
      break;
    case 2:
      (void)csv::read_behavior(text, "fuzz", "series");
      break;
    default:
      (void)csv::read_trials(text, "fuzz");
  }
  return 0;
}
