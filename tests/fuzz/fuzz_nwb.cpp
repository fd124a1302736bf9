#include <cstddef>
#include <cstdint>
#include <span>

#include "data/nwb.h"
#include "data/statistics.h"
#include "data/steps.h"

// On damaged metadata libhdf5 itself leaks, and asks malloc for sizes that it is glad to be refused
// (scripts/fuzz.sh lifts libFuzzer's own limit on one malloc for this fuzzer).
extern "C" const char* __asan_default_options() {
  return "detect_leaks=0:allocator_may_return_null=1";
}

/// Any bytes either become a recording, which can then be described and cut into steps, or an
/// error.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace cortex;
  const auto recording = read_nwb_image(std::as_bytes(std::span(data, size)), "fuzz");
  if (!recording) return 0;
  (void)describe(*recording);
  StepOptions options;
  if (!recording->behavior.empty()) options.target = recording->behavior.front().name;
  const auto stepped = step_recording(*recording, options);
  if (stepped && stepped->dims > 0 && !recording->trials.empty())
    (void)scored_steps(*stepped, *recording, "all");
  return 0;
}
